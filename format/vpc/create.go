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
func plan(dict opts.Dict, size int64) (f *footer, d *dynamic, backing string, err error) {
	var o createOptions
	if err := desc.CreateOptions.Decode(dict, &o); err != nil {
		return nil, nil, "", err
	}
	kind := uint32(typeDynamic)
	if o.BackingFile != "" {
		kind = typeDiff
	}
	switch o.Subformat {
	case "", "dynamic":
	case "fixed":
		if kind == typeDiff {
			return nil, nil, "", driver.Errorf(driver.ErrInvalid, "a fixed disk cannot have a parent")
		}
		kind = typeFixed
	default:
		return nil, nil, "", driver.Errorf(driver.ErrInvalid, "parameter 'subformat' does not accept value '%s'", o.Subformat)
	}
	if o.BackingFormat != "" && o.BackingFormat != "vpc" {
		return nil, nil, "", driver.Errorf(driver.ErrInvalid, "the parent of a vpc image must be one, too")
	}
	size = max(size, o.Size)
	if size > maxSize {
		return nil, nil, "", driver.Errorf(driver.ErrInvalid, "the image size is too large for file format 'vpc'")
	}
	f = newFooter(kind, time.Now())
	// The size of a parent is what it is.
	exact := o.ForceSize != nil && *o.ForceSize || kind == typeDiff
	if exact {
		f.creator = "qem2"
	}
	if f.setSize(size, exact) > maxSize {
		return nil, nil, "", driver.Errorf(driver.ErrInvalid, "the image size is too large for file format 'vpc'")
	}
	for i := range 8 { // the size that the disk had when it was new
		f.raw[offOrigSize+i] = byte(f.size >> (56 - 8*i))
	}
	if kind == typeFixed {
		return f, nil, "", nil
	}
	d = &dynamic{table: tableOffset, block: defaultBlock, entries: uint32(roundUp(int64(f.size), defaultBlock) / defaultBlock)}
	for i := range 8 {
		d.raw[8+i] = 0xff // there is no further header
	}
	d.raw[dynVersion+1] = 1
	return f, d, o.BackingFile, nil
}

// Create implements driver.Creator.
func (vpcDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	f, d, backing, err := plan(req.Options, req.Size)
	if err != nil {
		return err
	}
	if d == nil {
		if _, err := req.File.WriteAt(ctx, f.encode(), int64(f.size)); err != nil {
			return err
		}
		return req.File.Flush(ctx)
	}
	var names []byte
	if backing != "" {
		id, err := parentOf(ctx, req, backing)
		if err != nil {
			return err
		}
		if names, err = d.nameParent(backing, id); err != nil {
			return err
		}
	}
	fill := make([]byte, 64<<10)
	for i := range fill {
		fill[i] = 0xff
	}
	end := roundUp(d.tableEnd(), sectorSize)
	for off := int64(d.table); off < end; off += int64(len(fill)) {
		if _, err := req.File.WriteAt(ctx, fill[:min(int64(len(fill)), end-off)], off); err != nil {
			return err
		}
	}
	if _, err := req.File.WriteAt(ctx, f.encode(), end); err != nil {
		return err
	}
	if _, err := req.File.WriteAt(ctx, append(append(f.encode(), d.encode()...), names...), 0); err != nil {
		return err
	}
	return req.File.Flush(ctx)
}

// Measure implements driver.Measurer.
func (vpcDriver) Measure(ctx context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	f, d, _, err := plan(req.Options, req.Size)
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
