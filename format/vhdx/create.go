package vhdx

import (
	"context"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/opts"
)

const (
	creator     = "cowl"
	diffBlock   = 2 * mib // of new differencing disks: small, since a block is copied from the parent when it is written to
	dataGap     = 4 * mib // between the metadata and the blocks of new images, as QEMU has it
	maxLog      = 1<<32 - 1
	fileIDBytes = 64 << 10
)

// plan is what a new image is to be.
type plan struct {
	meta      metadata
	log, bat  region
	metaAt    region
	data      int64 // where the blocks begin
	zeroState bool  // blocks are zeroes, and not absent
	backing   string
}

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// newPlan checks options.
func newPlan(d opts.Dict, size int64) (*plan, error) {
	var o createOptions
	if err := desc.CreateOptions.Decode(d, &o); err != nil {
		return nil, err
	}
	size = max(size, o.Size)
	p := &plan{backing: o.BackingFile, zeroState: o.ZeroBlocks == nil || *o.ZeroBlocks}
	m := &p.meta
	m.diff = p.backing != ""
	m.logical, m.physical = max(o.Logical, sectorSize), max(o.Physical, o.Logical, sectorSize)
	switch o.Subformat {
	case "", "dynamic":
	case "fixed":
		m.fixed = true
	default:
		return nil, invalid("parameter 'subformat' does not accept value '%s'", o.Subformat)
	}
	logSize := o.LogSize
	if logSize > maxLog {
		return nil, invalid("log size must be smaller than 4 GB")
	}
	if logSize = roundUp(logSize, mib); logSize == 0 {
		return nil, invalid("log size must be a multiple of 1 MB")
	} else if logSize > maxLog {
		return nil, invalid("log size must be smaller than 4 GB")
	}
	if size > maxDisk {
		return nil, invalid("image size too large; max of 64TB")
	}
	m.size = roundUp(max(size, 0), m.logical)
	m.block = min(roundUp(min(max(o.BlockSize, 0), maxBlock), mib), maxBlock)
	switch {
	case m.block != 0:
	case m.diff:
		m.block = diffBlock
	case size > 32<<40:
		m.block = 64 * mib
	case size > 100<<30:
		m.block = 32 * mib
	case size > 1<<30:
		m.block = 16 * mib
	default:
		m.block = 8 * mib
	}
	switch {
	case m.block&(m.block-1) != 0:
		return nil, invalid("block size must be a power of two")
	case m.logical != 512 && m.logical != 4096, m.physical != 512 && m.physical != 4096:
		return nil, invalid("sectors have 512 or 4096 bytes")
	case m.diff && m.fixed:
		return nil, invalid("a fixed disk cannot have a parent")
	case o.BackingFormat != "" && o.BackingFormat != "vhdx":
		return nil, invalid("the parent of a vhdx image must be one, too")
	}
	m.page83 = newGUID()
	p.log = region{off: headerEnd, length: logSize}
	p.bat = region{id: regionBAT, off: p.log.end(), length: max(mib, roundUp(m.entries()*8, mib)), required: true}
	p.metaAt = region{id: regionMetadata, off: p.bat.end(), length: mib, required: true}
	p.data = p.metaAt.end() + dataGap
	return p, nil
}

// end returns how long the new file is.
func (p *plan) end() int64 {
	if p.meta.fixed {
		return p.data + p.meta.blocks()*p.meta.block
	}
	return p.data
}

// Create implements driver.Creator.
func (vhdxDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	p, err := newPlan(req.Options, req.Size)
	if err != nil {
		return err
	}
	if p.backing != "" {
		if err := p.findParent(ctx, req); err != nil {
			return err
		}
	}
	if r, ok := req.File.(driver.Resizer); ok && !req.File.Traits().FixedSize {
		if err := r.Resize(ctx, p.end(), driver.ResizeOptions{}); err != nil {
			return err
		}
	} else if req.File.Size() < p.end() {
		if _, err := req.File.WriteAt(ctx, []byte{0}, p.end()-1); err != nil {
			return err
		}
	}
	if err := p.writeTable(ctx, req.File); err != nil {
		return err
	}
	h := header{sequence: 1, fileWrite: newGUID(), dataWrite: newGUID(), logOffset: p.log.off, logLength: p.log.length}
	first := h.encode()
	h.sequence++
	regions := encodeRegions(p.bat, p.metaAt)
	id := make([]byte, fileIDBytes)
	copy(id[copy(id, fileSignature):], encodeUTF16(creator))
	for _, piece := range []struct {
		off  int64
		data []byte
	}{{p.metaAt.off, p.meta.encode()}, {headerOffsets[0], first}, {headerOffsets[1], h.encode()}, {firstRegions, regions}, {lastRegions, regions}, {0, id}} {
		if _, err := req.File.WriteAt(ctx, piece.data, piece.off); err != nil {
			return err
		}
	}
	return req.File.Flush(ctx)
}

// findParent opens the parent and notes which it is.
func (p *plan) findParent(ctx context.Context, req *driver.CreateRequest) error {
	if req.OpenImage == nil {
		return unsupported("a parent cannot be opened here")
	}
	parent, done, err := req.OpenImage(ctx, p.backing)
	if err != nil {
		return err
	}
	defer done()
	im, ok := parent.Node.(*image)
	if !ok {
		return invalid("the parent of a vhdx image must be one, too, and not %s", parent.Format)
	}
	if im.meta.logical != p.meta.logical && req.Options.String("logical_sector_size") != "" {
		return invalid("the parent has sectors of %d bytes, and so must this image", im.meta.logical)
	}
	p.meta.logical, p.meta.physical = im.meta.logical, max(p.meta.physical, im.meta.physical)
	p.meta.size = roundUp(p.meta.size, p.meta.logical)
	if p.meta.locator, err = newLocator(p.backing, im.contents()); err != nil {
		return fmt.Errorf("cannot name the parent: %w", err)
	}
	return nil
}

// writeTable writes the table of a new image, if it is not zeroes.
func (p *plan) writeTable(ctx context.Context, file driver.Storage) error {
	m := &p.meta
	end := p.bat.length
	if file.Traits().ZeroOnGrow && !file.Traits().FixedSize {
		if end = roundUp(m.entries()*8, logSector); m.diff || !m.fixed && !p.zeroState {
			return nil
		}
	}
	ratio := m.ratio()
	buf := make([]byte, min(mib, end))
	for at := int64(0); at < end; at += mib {
		b := buf[:min(mib, end-at)]
		clear(b)
		for i := range int64(len(b)) / 8 {
			n := at/8 + i
			block := n - n/(ratio+1)
			switch {
			case n%(ratio+1) == ratio || block >= m.blocks():
			case m.fixed:
				le.PutUint64(b[i*8:], uint64(p.data+block*m.block)|blockFull)
			case p.zeroState && !m.diff:
				le.PutUint64(b[i*8:], blockZero)
			}
		}
		if _, err := file.WriteAt(ctx, b, p.bat.off+at); err != nil {
			return err
		}
	}
	return nil
}

// Measure implements driver.Measurer.
func (vhdxDriver) Measure(ctx context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	p, err := newPlan(req.Options, req.Size)
	if err != nil {
		return nil, err
	}
	full := p.data + p.meta.blocks()*p.meta.block
	if p.meta.fixed {
		return &driver.Measured{Required: full, FullyAllocated: full}, nil
	}
	data, err := blockmap.DataUnits(ctx, req, p.meta.block)
	if err != nil {
		return nil, err
	}
	return &driver.Measured{Required: p.data + data, FullyAllocated: full}, nil
}
