package qcow2

import (
	"cmp"
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// Resize changes the size of the disk. New bytes read as zeroes as far as this
// image goes: hiding what a longer backing file holds there is for the block
// layer.
func (im *image) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	mode := opt.Prealloc
	if mode == "" {
		mode = driver.PreallocOff
	}
	switch mode {
	case driver.PreallocOff, driver.PreallocMetadata, driver.PreallocFalloc, driver.PreallocFull:
	default:
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", mode)
	}
	if size < 0 || size%512 != 0 {
		return driver.Errorf(driver.ErrInvalid, "the new size must be a multiple of 512")
	}
	im.resizeMu.Lock()
	defer im.resizeMu.Unlock()
	old := im.size.Load()
	switch {
	case im.hdr.NbSnapshots > 0 && im.version < 3:
		return driver.Errorf(driver.ErrUnsupported, "can't resize a v2 image which has snapshots")
	case size < old && mode != driver.PreallocOff:
		return driver.Errorf(driver.ErrInvalid, "preallocation can't be used for shrinking an image")
	case im.l1Entries(size)*8 > ondisk.MaxL1Bytes:
		return driver.Errorf(driver.ErrTooLarge, "failed to grow the L1 table: file too large")
	}
	if err := im.bm.CheckConsistent(); err != nil {
		return err
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	if size == old {
		return nil
	}
	finish, err := im.bm.PrepareResize(ctx, size)
	if err != nil {
		return err
	}
	if size < old {
		err = im.shrink(ctx, old, size, opt)
	} else {
		err = im.grow(ctx, old, size, mode, opt)
	}
	return cmp.Or(err, finish(im.size.Load()))
}

func (im *image) grow(ctx context.Context, old, size int64, mode driver.Prealloc, opt driver.ResizeOptions) error {
	if err := im.dropVMState(ctx, old); err != nil {
		return driver.Errorf(nil, "failed to discard the state of a virtual machine: %w", err)
	}
	if err := im.growL1(ctx, im.l1Entries(size)); err != nil {
		return driver.Errorf(nil, "failed to grow the L1 table: %w", err)
	}
	if err := im.zeroTail(ctx, old, size); err != nil {
		return driver.Errorf(nil, "failed to zero out the new area: %w", err)
	}
	if err := im.hideBacking(ctx, old, min(size, opt.HideBacking)); err != nil {
		return driver.Errorf(nil, "failed to zero out the new area: %w", err)
	}
	entries := mode
	if im.dataRaw && mode == driver.PreallocOff {
		entries = driver.PreallocMetadata // the data file reads the same as the image: everything is mapped
	}
	if im.external {
		r, ok := im.data.(driver.Resizer)
		if !ok {
			return driver.Errorf(driver.ErrUnsupported, "the data file cannot be resized")
		}
		fileMode := mode
		if mode == driver.PreallocMetadata {
			fileMode = driver.PreallocOff
		}
		if size > im.data.Size() {
			if err := r.Resize(ctx, size, driver.ResizeOptions{Prealloc: fileMode, Exact: opt.Exact}); err != nil {
				return err
			}
		}
	}
	if entries != driver.PreallocOff {
		if err := im.preallocate(ctx, old, size, mode); err != nil {
			return err
		}
		im.recurse.Store(0)
	}
	if err := im.Flush(ctx); err != nil {
		return driver.Errorf(nil, "failed to flush the preallocated area to disk: %w", err)
	}
	return im.writeSize(ctx, size)
}

// hideBacking makes the whole clusters of [old, end) zero clusters while they are
// still beyond the end of the disk. Version 2 has none: there it does nothing.
func (im *image) hideBacking(ctx context.Context, old, end int64) error {
	c0, c1 := im.clusters(old), im.clusters(end)
	if im.version < 3 || im.dataRaw || c0 >= c1 {
		return nil
	}
	return im.change(ctx, c0, c1, changeOptions{
		makeTables: true,
		how:        discardOther,
		edit: func(_ int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
			return im.zeroed(old, 0)
		},
	})
}

// writeSize records the size of the disk and shows it.
func (im *image) writeSize(ctx context.Context, size int64) error {
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	if err := im.writeHeaderField(ctx, ondisk.SizeOffset, binary.BigEndian.AppendUint64(nil, uint64(size))); err != nil {
		return driver.Errorf(nil, "failed to update the image size: %w", err)
	}
	im.hdr.Size = uint64(size)
	im.size.Store(size)
	return nil
}

// growL1 makes the L1 table n entries long. The order on disk: refcounts of the
// new place, the new table, barrier, header, barrier; then the old one is freed.
func (im *image) growL1(ctx context.Context, n int64) error {
	if n <= int64(len(im.l1.Entries)) {
		return nil
	}
	im.events.Raise("l1_grow_alloc_table")
	clusters := im.clusters(n * 8)
	host, _, _, err := im.allocRun(ctx, clusters, clusters)
	if err != nil {
		return err
	}
	fail := func(err error) error {
		im.freeNow(ctx, host, clusters<<im.clusterBits)
		return err
	}
	// With tableMu held no L1 entry changes, and after the writeback the table in
	// memory is that on disk.
	im.tableMu.Lock()
	defer im.tableMu.Unlock()
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.writeback(ctx, true, true); err != nil {
		return fail(err)
	}
	l1 := make([]uint64, n)
	copy(l1, im.l1.Entries)
	buf := make([]byte, 0, clusters<<im.clusterBits)
	for _, e := range l1 {
		buf = binary.BigEndian.AppendUint64(buf, e)
	}
	im.events.Raise("l1_grow_write_table")
	if _, err := im.file.WriteAt(ctx, buf[:cap(buf)], host); err != nil {
		return fail(err)
	}
	if err := im.file.Flush(ctx); err != nil {
		return fail(err)
	}
	im.hdrMu.Lock()
	field := binary.BigEndian.AppendUint32(nil, uint32(n))
	field = binary.BigEndian.AppendUint64(field, uint64(host))
	im.events.Raise("l1_grow_activate_table")
	err = im.writeHeaderField(ctx, ondisk.L1Offset, field)
	if err == nil {
		im.hdr.L1Size, im.hdr.L1TableOffset = uint32(n), uint64(host)
	}
	im.hdrMu.Unlock()
	if err != nil {
		im.refused.Store(true) // which table the header names is not known
		return err
	}
	im.meta.Lock()
	oldOff, oldLen := im.l1.Off, im.l1.Bytes()
	im.l1 = clustertable.NewRoot(l1, host, binary.BigEndian)
	im.meta.Unlock()
	a := &im.alloc
	a.mu.Lock()
	a.holdSpans()
	if oldLen > 0 {
		a.ready = append(a.ready, drop{off: oldOff, n: im.alignUp(oldLen), how: discardOther})
	}
	a.mu.Unlock()
	return nil
}

// zeroTail zeroes what is behind the old end of the disk in its last cluster:
// left there when the disk was larger.
func (im *image) zeroTail(ctx context.Context, old, size int64) error {
	end := min(size, im.alignUp(old))
	for off := old; off < end; {
		x, err := im.mapRange(ctx, off, end-off)
		if err != nil {
			return err
		}
		if x.Kind == driver.ExtentData || x.Kind == driver.ExtentEncoded {
			if err := im.zeroRange(ctx, off, x.Length); err != nil {
				return err
			}
		}
		off += x.Length
	}
	return nil
}

// zeroRange writes zeroes as data to a part of a cluster that holds data. What
// is before it in the cluster or subcluster is data too, and so it can be
// copied without a look at the backing file; what is behind is beyond the end
// of the disk.
func (im *image) zeroRange(ctx context.Context, off, n int64) error {
	for n > 0 {
		t, err := im.allocate(ctx, off, n)
		if err != nil {
			return err
		}
		if t.Pending == nil {
			t.Head, t.Tail = 0, 0
		}
		buf := make([]byte, t.Head+t.Length+t.Tail)
		if t.Head > 0 {
			err = im.readOwn(ctx, buf[:t.Head], off-t.Head)
		}
		if err == nil {
			_, err = t.Child.WriteAt(ctx, buf, t.HostOffset-t.Head)
		}
		if t.Pending != nil {
			if err != nil {
				t.Pending.Abort(ctx)
				return err
			}
			err = t.Pending.Commit(ctx)
		}
		if err != nil {
			return err
		}
		off, n = off+t.Length, n-t.Length
	}
	return nil
}

// readOwn reads guest bytes that this image holds.
func (im *image) readOwn(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		x, err := im.mapRange(ctx, off, int64(len(p)))
		if err != nil {
			return err
		}
		q := p[:x.Length]
		switch x.Kind {
		case driver.ExtentData:
			err = tableio.ReadPadded(ctx, x.Child, q, x.HostOffset)
		case driver.ExtentEncoded:
			err = im.ReadEncoded(ctx, q, off)
		default:
			clear(q)
			if x.Kind == driver.ExtentUnallocated && im.hasBacking() {
				err = driver.Errorf(driver.ErrUnsupported, "guest offset %#x is in the backing file", off)
			}
		}
		if err != nil {
			return err
		}
		p, off = p[x.Length:], off+x.Length
	}
	return nil
}
