package qcow2

import (
	"context"
	"math"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// The state of a virtual machine lies where the disk would go on, from the first offset
// that no L2 table of the disk maps. A snapshot keeps it with the disk.

// vmStateAt is the offset of n bytes at pos of the state.
func (im *image) vmStateAt(pos, n int64) (int64, error) {
	if im.external {
		return 0, driver.Errorf(driver.ErrUnsupported, "images with an external data file hold no state of a virtual machine")
	}
	start := im.l1Entries(im.size.Load()) * im.l2Range()
	if pos < 0 || pos > math.MaxInt64-start-n {
		return 0, driver.Errorf(driver.ErrRange, "%d bytes at %d of the state of a virtual machine: %w", n, pos, syscall.EIO)
	}
	return start + pos, nil
}

// ReadVMState implements driver.VMStateKeeper.
func (im *image) ReadVMState(ctx context.Context, p []byte, pos int64) error {
	off, err := im.vmStateAt(pos, int64(len(p)))
	if err != nil {
		return err
	}
	im.events.Raise("vmstate_load")
	return im.readVMState(ctx, p, off)
}

// readVMState reads at an offset of the disk. No backing file answers there.
func (im *image) readVMState(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		x, err := im.mapRange(ctx, off, int64(len(p)))
		if err != nil {
			return err
		}
		q := p[:x.Length]
		if x.Kind == driver.ExtentUnallocated {
			clear(q)
		} else {
			im.events.Raise("read_aio")
			err = im.readOwn(ctx, q, off)
		}
		if err != nil {
			return err
		}
		p, off = p[x.Length:], off+x.Length
	}
	return nil
}

// WriteVMState implements driver.VMStateKeeper.
func (im *image) WriteVMState(ctx context.Context, p []byte, pos int64) error {
	im.resizeMu.Lock()
	defer im.resizeMu.Unlock()
	off, err := im.vmStateAt(pos, int64(len(p)))
	if err != nil || len(p) == 0 {
		return err
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	im.events.Raise("vmstate_save")
	if err := im.growL1For(ctx, off+int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		t, err := im.allocate(ctx, off, int64(len(p)))
		if err != nil {
			return err
		}
		err = im.fillVMState(ctx, p[:t.Length], off, t)
		switch {
		case t.Pending != nil && err != nil:
			t.Pending.Abort(context.WithoutCancel(ctx))
		case t.Pending != nil:
			err = t.Pending.Commit(context.WithoutCancel(ctx))
		}
		if err != nil {
			return err
		}
		p, off = p[t.Length:], off+t.Length
	}
	return nil
}

// growL1For makes the L1 table reach end, and a half longer where it must grow: a state
// is written in order, and each growth copies the table.
func (im *image) growL1For(ctx context.Context, end int64) error {
	have := int64(len(im.l1.Entries))
	need := (end-1)/im.l2Range() + 1
	if need <= have {
		return nil
	}
	if need*8 > ondisk.MaxL1Bytes {
		return driver.Errorf(driver.ErrTooLarge, "failed to grow the L1 table: %w", syscall.EFBIG)
	}
	return im.growL1(ctx, max(need, min(have+have/2, ondisk.MaxL1Bytes/8)))
}

// fillVMState writes p and what is around it in new clusters.
func (im *image) fillVMState(ctx context.Context, p []byte, off int64, t driver.WriteTarget) error {
	if t.Head == 0 && t.Tail == 0 {
		_, err := t.Child.WriteAt(ctx, p, t.HostOffset)
		return err
	}
	end := t.Head + int64(len(p))
	buf := make([]byte, end+t.Tail)
	if err := im.readVMState(ctx, buf[:t.Head], off-t.Head); err != nil {
		return err
	}
	copy(buf[t.Head:], p)
	if err := im.readVMState(ctx, buf[end:], off+int64(len(p))); err != nil {
		return err
	}
	_, err := t.Child.WriteAt(ctx, buf, t.HostOffset-t.Head)
	return err
}

// dropVMState gives up the state behind a disk of size bytes that grows: it would be what
// the disk grows by.
func (im *image) dropVMState(ctx context.Context, size int64) error {
	c0, c1 := im.l1Entries(size)<<im.l2Bits, int64(len(im.l1.Entries))<<im.l2Bits
	if c0 >= c1 {
		return nil
	}
	p, err := im.pend.Reserve(ctx, c0, c1)
	if err != nil {
		return err
	}
	defer im.pend.Remove(p)
	return im.cutClusters(ctx, c0, c1, discardOther)
}
