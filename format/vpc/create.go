package vpc

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/opts"
)

const (
	defaultBlock = 2 << 20
	tableOffset  = 3 * sectorSize
)

// newUUID returns a random UUID, version 4 of RFC 9562.
func newUUID() (id uuid) {
	rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// plan returns footer and header of a new image for options and a size.
func plan(d opts.Dict, size int64) (*footer, *dynamic, error) {
	var o createOptions
	if err := desc.CreateOptions.Decode(d, &o); err != nil {
		return nil, nil, err
	}
	kind := uint32(typeDynamic)
	switch o.Subformat {
	case "", "dynamic":
	case "fixed":
		kind = typeFixed
	default:
		return nil, nil, driver.Errorf(driver.ErrInvalid, "parameter 'subformat' does not accept value '%s'", o.Subformat)
	}
	size = max(size, o.Size)
	if size > maxSize {
		return nil, nil, driver.Errorf(driver.ErrInvalid, "the image size is too large for file format 'vpc'")
	}
	f := newFooter(kind, time.Now())
	exact := o.ForceSize != nil && *o.ForceSize
	if exact {
		f.creator = "qem2"
	}
	if f.setSize(size, exact) > maxSize {
		return nil, nil, driver.Errorf(driver.ErrInvalid, "the image size is too large for file format 'vpc'")
	}
	for i := range 8 { // the size that the disk had when it was new
		f.raw[offOrigSize+i] = byte(f.size >> (56 - 8*i))
	}
	if kind == typeFixed {
		return f, nil, nil
	}
	h := &dynamic{table: tableOffset, block: defaultBlock, entries: uint32(roundUp(int64(f.size), defaultBlock) / defaultBlock)}
	for i := range 8 {
		h.raw[8+i] = 0xff // there is no further header
	}
	h.raw[dynVersion+1] = 1
	return f, h, nil
}

// Create implements driver.Creator.
func (vpcDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	f, d, err := plan(req.Options, req.Size)
	if err != nil {
		return err
	}
	if d == nil {
		if _, err := req.File.WriteAt(ctx, f.encode(), int64(f.size)); err != nil {
			return err
		}
		return req.File.Flush(ctx)
	}
	fill := make([]byte, 64<<10)
	for i := range fill {
		fill[i] = 0xff
	}
	end := roundUp(d.tableEnd(), sectorSize)
	for off := int64(tableOffset); off < end; off += int64(len(fill)) {
		if _, err := req.File.WriteAt(ctx, fill[:min(int64(len(fill)), end-off)], off); err != nil {
			return err
		}
	}
	if _, err := req.File.WriteAt(ctx, f.encode(), end); err != nil {
		return err
	}
	if _, err := req.File.WriteAt(ctx, append(f.encode(), d.encode()...), 0); err != nil {
		return err
	}
	return req.File.Flush(ctx)
}

// Measure implements driver.Measurer.
func (vpcDriver) Measure(ctx context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	f, d, err := plan(req.Options, req.Size)
	if err != nil {
		return nil, err
	}
	if d == nil {
		n := int64(f.size) + footerSize
		return &driver.Measured{Required: n, FullyAllocated: n}, nil
	}
	data, err := blockmap.DataUnits(ctx, req, defaultBlock)
	if err != nil {
		return nil, err
	}
	empty, per := roundUp(d.tableEnd(), sectorSize)+footerSize, roundUp(d.bitmap(), dataAlign)+defaultBlock
	total := func(blocks int64) int64 {
		if blocks == 0 {
			return empty
		}
		return roundUp(d.tableEnd(), dataAlign) + blocks*per + footerSize
	}
	return &driver.Measured{Required: total(data / defaultBlock), FullyAllocated: total(int64(d.entries))}, nil
}
