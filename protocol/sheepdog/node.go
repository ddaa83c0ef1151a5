package sheepdog

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/sheepdog"
)

// node is an open VDI.
type node struct {
	o      *openOptions
	c      *sheepdog.Client
	v      *sheepdog.VDI
	write  bool
	sizeMu sync.RWMutex // requests within the disk: shared; what changes its size or all of it: exclusive
}

var (
	_ driver.Storage        = (*node)(nil)
	_ driver.ZeroWriter     = (*node)(nil)
	_ driver.Discarder      = (*node)(nil)
	_ driver.Resizer        = (*node)(nil)
	_ driver.Named          = (*node)(nil)
	_ driver.SpaceTeller    = (*node)(nil)
	_ driver.Snapshotter    = (*node)(nil)
	_ driver.SnapshotOpener = (*node)(nil)
)

// Size implements driver.Node.
func (n *node) Size() int64 { return n.v.Size() }

// optTransfer is the smallest request that is efficient, in bytes.
const optTransfer = 64 << 10

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits {
	return driver.Limits{DiscardAlignment: n.v.ObjectSize(), OptTransfer: optTransfer}
}

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits {
	return driver.Traits{ZeroInit: n.v.Parent() == 0, ZeroOnGrow: true, Remote: true, ObjectZeroes: true}
}

// Filename implements driver.Named.
func (n *node) Filename() string { return n.o.name() }

// DiskUsage implements driver.SpaceTeller: shared objects count, too, and copies do not.
func (n *node) DiskUsage(context.Context) (int64, error) {
	return n.v.Objects() * n.v.ObjectSize(), nil
}

// failed is the error of a request.
func (n *node) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return driver.Errorf(kindOf(err), "VDI '%s': %w", n.o.VDI, err)
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n.sizeMu.RLock()
	defer n.sizeMu.RUnlock()
	size := n.Size()
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case off >= size:
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	if len(p) == 0 {
		return 0, end
	}
	if err := n.v.ReadAt(ctx, p, off); err != nil {
		return 0, n.failed(ctx, err)
	}
	return len(p), end
}

// writable refuses requests that cannot be done.
func (n *node) writable(ctx context.Context, off int64) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !n.write:
		return driver.Errorf(driver.ErrReadOnly, "the VDI is open for reading only")
	case off < 0:
		return driver.Errorf(driver.ErrRange, "offset %d is negative", off)
	}
	return nil
}

// within runs f with sizeMu, on a disk that reaches to end.
func (n *node) within(ctx context.Context, end int64, f func() error) error {
	n.sizeMu.RLock()
	if end > n.Size() {
		n.sizeMu.RUnlock()
		n.sizeMu.Lock()
		var err error
		if end > n.Size() {
			err = n.grow(ctx, end)
		}
		n.sizeMu.Unlock()
		if err != nil {
			return err
		}
		n.sizeMu.RLock()
	}
	defer n.sizeMu.RUnlock()
	return f()
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.writable(ctx, off); err != nil || len(p) == 0 {
		return 0, err
	}
	err := n.within(ctx, off+int64(len(p)), func() error {
		if err := n.v.WriteAt(ctx, p, off); err != nil {
			return n.failed(ctx, err)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	if err := n.writable(ctx, off); err != nil || length <= 0 {
		return err
	}
	return n.within(ctx, off+length, func() error {
		err := n.v.Zero(ctx, off, length, flags&driver.ZeroMayUnmap != 0, flags&driver.ZeroNoFallback != 0)
		switch {
		case errors.Is(err, sheepdog.ErrSlow):
			return driver.ErrUnsupported
		case err != nil:
			return n.failed(ctx, err)
		}
		return nil
	})
}

// Discard implements driver.Discarder.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	if err := n.writable(ctx, off); err != nil {
		return err
	}
	n.sizeMu.RLock()
	defer n.sizeMu.RUnlock()
	if length = min(length, n.Size()-off); length <= 0 {
		return nil
	}
	err := n.v.Discard(ctx, off, length)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return driver.ErrUnsupported
	case err != nil:
		return n.failed(ctx, err)
	}
	return nil
}

// Map implements driver.Storage: the table of the VDI tells, nothing is asked.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	if err := ctx.Err(); err != nil {
		return driver.Extent{}, err
	}
	n.sizeMu.RLock()
	defer n.sizeMu.RUnlock()
	if off >= n.Size() || length <= 0 {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	data, length := n.v.Status(off, length)
	e := driver.Extent{Kind: driver.ExtentZero, Length: length, HostOffset: off, HasOffset: data}
	if data {
		e.Kind = driver.ExtentData
	}
	return e, nil
}

// grow is called with sizeMu.
func (n *node) grow(ctx context.Context, size int64) error {
	if size > int64(sheepdog.MaxObjects)*n.v.ObjectSize() {
		return driver.Errorf(driver.ErrInvalid, "too big image size")
	}
	if err := n.v.Grow(ctx, size); err != nil {
		return n.failed(ctx, err)
	}
	return nil
}

// Resize implements driver.Resizer.
func (n *node) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	full := opt.Prealloc == driver.PreallocFull
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff && !full {
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", opt.Prealloc)
	}
	if err := n.writable(ctx, 0); err != nil {
		return err
	}
	n.sizeMu.Lock()
	defer n.sizeMu.Unlock()
	old := n.Size()
	switch {
	case size == old:
		return nil
	case size < old:
		return driver.Errorf(driver.ErrUnsupported, "shrinking is not supported")
	}
	if err := n.grow(ctx, size); err != nil || !full {
		return err
	}
	zeroes := make([]byte, fillStep)
	for off := old; off < size; off += fillStep {
		if err := n.v.WriteAt(ctx, zeroes[:min(fillStep, size-off)], off); err != nil {
			return n.failed(ctx, err)
		}
	}
	return nil
}

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil || !n.write {
		return err
	}
	if err := n.v.Flush(ctx); err != nil {
		return n.failed(ctx, err)
	}
	return nil
}

// Close implements driver.Node.
func (n *node) Close(ctx context.Context) error {
	err := n.v.Close(ctx)
	if err != nil {
		err = n.failed(ctx, err)
	}
	if ctx.Err() != nil {
		err = nil // nobody waits for what a write that failed has left
	}
	n.c.Close()
	return err
}
