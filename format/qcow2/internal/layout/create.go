package layout

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// Create lays a new image out in req.File: byte for byte the file that the
// original makes for the same options. Preallocated tables are written as they
// are laid out, so memory is bounded by the L1 table and the refcount table.
func Create(ctx context.Context, req *driver.CreateRequest) error {
	p, err := decodeCreate(req.Options, req.Size)
	if err != nil {
		return err
	}
	var objects driver.Objects
	if req.Env != nil {
		objects = req.Env.Objects
	}
	secret, err := p.secret(objects)
	if err != nil {
		return err
	}
	c := &creation{createParams: p, ctx: ctx, file: req.File,
		plan: newPlanner(p.clusterBits, p.refcountOrder),
		w:    tableio.NewWriter(ctx, req.File), secret: secret}
	if err := c.layOut(); err != nil {
		return err
	}
	if p.dataFile != "" {
		if err := c.createDataFile(req); err != nil {
			return err
		}
	}
	return req.File.Flush(ctx)
}

// creation is an image being created.
type creation struct {
	*createParams
	ctx  context.Context
	file driver.Storage
	plan *planner
	w    *tableio.Writer

	l1       []uint64
	l1Offset int64
	dropped  int // entries of plan.dropped that were written

	secret []byte // the passphrase of an encrypted image
}

func (c *creation) layOut() error {
	var err error
	if n := c.l1Size(); n > 0 {
		if c.l1Offset, err = c.plan.alloc(n * 8); err != nil {
			return err
		}
		c.l1 = make([]uint64, n)
	} else {
		// QEMU notes where the table would be.
		c.l1Offset = 0
	}
	h := c.header()
	// The header is encoded first because it may not fit, and written last,
	// because without it there is no image.
	crypto, err := c.cryptoExtension()
	if err != nil {
		return err
	}
	if _, err := newHeader(h, c.backing, c.backingFormat, c.dataFile, crypto...); err != nil {
		return err
	}
	end, err := c.preallocate()
	if err != nil {
		return err
	}
	if len(crypto) > 0 {
		if end, err = c.writeLUKS(crypto[0].Data, end); err != nil {
			return err
		}
	}
	if err := c.writeTables(); err != nil {
		return err
	}
	h.L1Size, h.L1TableOffset = uint32(len(c.l1)), uint64(c.l1Offset)
	h.RefcountTableOffset = uint64(c.plan.reftableOffset)
	h.RefcountTableClusters = uint32(c.plan.clusters(int64(len(c.plan.reftable)) * 8))
	b, err := newHeader(h, c.backing, c.backingFormat, c.dataFile, crypto...)
	if err != nil {
		return err
	}
	if err := c.w.Write(0, append(b, make([]byte, c.plan.clusterSize()-int64(len(b)))...)); err != nil {
		return err
	}
	if err := c.w.Flush(); err != nil {
		return err
	}
	if end > c.w.End() {
		return tableio.Extend(c.ctx, c.file, end, driver.PreallocOff)
	}
	return nil
}

// preallocate writes the L2 tables that the preallocation mode asks for and
// returns where the last data cluster ends, which is where the file must reach.
func (c *creation) preallocate() (end int64, err error) {
	pa := preallocation{size: c.size, entrySize: c.entrySize(), fillUnit: c.fillUnit(), dataFile: c.dataFile != "", emit: c.emit}
	switch {
	case c.prealloc == driver.PreallocOff:
		return 0, nil
	case c.prealloc == driver.PreallocMetadata || c.dataFile != "":
		return c.plan.preallocate(pa)
	}
	return 0, c.plan.preallocateArea(pa, func(offset, length int64) error {
		// What is before the area is written later and takes the room it
		// needs then.
		if err := tableio.Extend(c.ctx, c.file, offset, driver.PreallocOff); err != nil {
			return err
		}
		return tableio.Extend(c.ctx, c.file, offset+length, c.prealloc)
	})
}

// emit writes an L2 table.
func (c *creation) emit(index, offset int64, runs []tableRun) error {
	if err := c.writeDropped(); err != nil {
		return err
	}
	c.l1[index] = uint64(offset) | ondisk.FlagCopied
	b, err := c.w.Room(offset, c.plan.clusterSize())
	if err != nil {
		return err
	}
	encodeTable(b, runs, c.plan.clusterSize(), c.entrySize())
	return c.ctx.Err()
}

// writeDropped writes refcount tables that were replaced meanwhile. Their room
// is free and may hold something else soon, which is written after it.
func (c *creation) writeDropped() error {
	for ; c.dropped < len(c.plan.dropped); c.dropped++ {
		d := &c.plan.dropped[c.dropped]
		if err := c.w.Words(d.offset, d.entries); err != nil {
			return err
		}
		d.entries = nil
	}
	return nil
}

// writeTables writes the L1 table, the refcount blocks and the refcount table.
func (c *creation) writeTables() error {
	if err := c.writeDropped(); err != nil {
		return err
	}
	if err := c.w.Words(c.l1Offset, c.l1); err != nil {
		return err
	}
	full := fullRefcountBlock(c.plan.clusterSize(), c.refcountOrder)
	for i, offset := range c.plan.reftable {
		if offset == 0 {
			continue
		}
		b, err := c.w.Room(int64(offset), c.plan.clusterSize())
		if err != nil {
			return err
		}
		c.plan.encodeRefcounts(b, full, int64(i))
	}
	return c.w.Words(c.plan.reftableOffset, c.plan.reftable)
}

// createDataFile makes the external data file.
func (c *creation) createDataFile(req *driver.CreateRequest) error {
	mode := c.prealloc
	if mode == driver.PreallocMetadata {
		mode = driver.PreallocOff
	}
	want := c.size
	if c.prealloc != driver.PreallocOff {
		want = tableio.AlignUp(want, c.fillUnit())
	}
	size := want
	if mode != driver.PreallocOff {
		size = 0 // grown below, which is what reserves room
	}
	f, err := c.dataFileFor(req, size)
	if err != nil {
		return err
	}
	err = tableio.Extend(c.ctx, f, want, mode)
	if err == nil {
		err = f.Flush(c.ctx)
	}
	return errors.Join(err, f.Close(c.ctx))
}

// dataFileFor opens the data file, which is there already if it is to be kept.
func (c *creation) dataFileFor(req *driver.CreateRequest, size int64) (driver.Storage, error) {
	switch {
	case c.keepDataFile && req.OpenChild != nil:
		return req.OpenChild(c.ctx, c.dataFile)
	case !c.keepDataFile && req.CreateChild != nil:
		return req.CreateChild(c.ctx, c.dataFile, size)
	}
	return nil, driver.Errorf(driver.ErrUnsupported, "an external data file cannot be created here")
}
