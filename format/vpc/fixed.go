package vpc

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
)

// fixed is an open fixed disk: the file, without the footer at its end.
type fixed struct {
	file  driver.Storage
	write bool
	force string
	size  atomic.Int64

	mu     sync.Mutex // guards what follows
	footer footer
	end    int64 // where the footer lies
}

func openFixed(req *driver.OpenRequest, c *copies, force string) (*fixed, error) {
	size, err := c.diskSize(force)
	if err != nil {
		return nil, err
	}
	n := &fixed{file: req.File, write: req.Access.Write, force: force, footer: *c.footer, end: c.end}
	n.size.Store(size)
	return n, nil
}

// Size implements driver.Node.
func (n *fixed) Size() int64 { return n.size.Load() }

// Limits implements driver.Node.
func (n *fixed) Limits() driver.Limits {
	l := n.file.Limits()
	l.ClusterSize = 0
	return l
}

// Traits implements driver.Node.
func (n *fixed) Traits() driver.Traits { return driver.Traits{ZeroInit: n.file.Traits().ZeroInit} }

// State implements driver.Stater: the footer knows no such marks.
func (*fixed) State(context.Context) (*driver.State, error) { return &driver.State{}, nil }

// Flush implements driver.Node.
func (n *fixed) Flush(ctx context.Context) error {
	if !n.write {
		return nil
	}
	return n.file.Flush(ctx)
}

// Close implements driver.Node.
func (*fixed) Close(context.Context) error { return nil }

// Map implements driver.Format. What the disk has where the footer lies, or behind it, is
// not there.
func (n *fixed) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	size := n.size.Load()
	if off >= size {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	return driver.Extent{Length: min(length, size-off), Kind: driver.ExtentData, Child: n.file, HostOffset: off, HasOffset: true, Recurse: true}, nil
}

// ReadEncoded implements driver.Format: nothing is.
func (*fixed) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrUnsupported, "fixed disks have no encoded blocks")
}

// room refuses a request that reaches where the footer lies: a disk that says it is larger
// than the file.
func (n *fixed) room(off, length int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if off+length > n.end {
		return driver.Errorf(driver.ErrCorrupt, "the disk has %d bytes, and the file room for %d", n.size.Load(), n.end)
	}
	return nil
}

// Allocate implements driver.Allocator.
func (n *fixed) Allocate(_ context.Context, off, length int64) (driver.WriteTarget, error) {
	if err := n.room(off, length); err != nil {
		return driver.WriteTarget{}, err
	}
	return driver.WriteTarget{Length: length, Child: n.file, HostOffset: off}, nil
}

// WriteZeroes implements driver.ZeroWriter.
func (n *fixed) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	if err := n.room(off, length); err != nil {
		return err
	}
	z, ok := n.file.(driver.ZeroWriter)
	if !ok {
		return driver.ErrUnsupported
	}
	return z.WriteZeroes(ctx, off, length, flags)
}

// Discard implements driver.Discarder.
func (n *fixed) Discard(ctx context.Context, off, length int64) error {
	if err := n.room(off, length); err != nil {
		return err
	}
	d, ok := n.file.(driver.Discarder)
	if !ok {
		return driver.ErrUnsupported
	}
	return d.Discard(ctx, off, length)
}

// Resize implements driver.Resizer. The footer is written at its new place first.
func (n *fixed) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	f, size, err := resized(&n.footer, size, n.force, opt)
	if err != nil {
		return err
	}
	r, ok := n.file.(driver.Resizer)
	if !ok {
		return driver.Errorf(driver.ErrUnsupported, "the file of a fixed disk cannot be resized")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.file.WriteAt(ctx, f.encode(), size); err != nil {
		return err
	}
	if err := n.file.Flush(ctx); err != nil {
		return err
	}
	if size > n.end {
		// The old footer lies in the disk now, whose new bytes are zeroes.
		if _, err := n.file.WriteAt(ctx, make([]byte, min(footerSize, size-n.end)), n.end); err != nil {
			return err
		}
	} else if err := r.Resize(ctx, size+footerSize, driver.ResizeOptions{}); err != nil {
		return err
	}
	n.footer, n.end = *f, size
	n.size.Store(size)
	return n.file.Flush(ctx)
}

// Check implements driver.Checker: there is a footer and the disk is as long as it says.
func (n *fixed) Check(_ context.Context, _ driver.CheckFix, report func(line string), _ func(done, total int64)) (*driver.CheckResult, error) {
	res := &driver.CheckResult{}
	if err := n.room(0, n.size.Load()); err != nil {
		report("ERROR " + err.Error())
		res.Corruptions++
	}
	return res, nil
}

// resized returns the footer of a disk that gets another size, and that size: where the
// geometry tells it, the next one that has a geometry. If the size must be exact the
// image becomes one whose geometry does not tell it.
func resized(old *footer, size int64, force string, opt driver.ResizeOptions) (*footer, int64, error) {
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff {
		return nil, 0, driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", opt.Prealloc)
	}
	if size > maxSize {
		return nil, 0, driver.Errorf(driver.ErrInvalid, "the disk may have %d bytes", int64(maxSize))
	}
	f := *old
	got := f.setSize(size, !old.byGeometry(force))
	if opt.Exact && got != roundUp(size, sectorSize) && force != sizeCHS {
		f.creator = "qem2"
		got = f.setSize(size, true)
	}
	if got > maxSize || opt.Exact && got != roundUp(size, sectorSize) {
		return nil, 0, driver.Errorf(driver.ErrInvalid, "no geometry has %d bytes, and the next one %d", size, got)
	}
	return &f, got, nil
}
