package caller

import (
	"context"
	"io"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
)

// node is an open object of fixed size.
type node struct {
	*object
	write, noFlush bool
}

// growing is a node whose size can change.
type growing struct{ *node }

var (
	_ driver.Storage    = (*node)(nil)
	_ driver.Identifier = (*node)(nil)
	_ driver.Resizer    = (*growing)(nil)
)

// Size implements driver.Node.
func (n *node) Size() int64 { return n.size.Load() }

// Limits implements driver.Node.
func (*node) Limits() driver.Limits { return driver.Limits{} }

// Traits implements driver.Node.
func (*node) Traits() driver.Traits { return driver.Traits{FixedSize: true} }

// State implements driver.Stater: bytes are neither dirty nor corrupt.
func (*node) State(context.Context) (*driver.State, error) {
	return &driver.State{}, nil
}

// Traits implements driver.Node.
func (*growing) Traits() driver.Traits {
	return driver.Traits{ZeroInit: true, ZeroOnGrow: true}
}

// Identity implements driver.Identifier.
func (n *node) Identity() string { return n.identity() }

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s, ok := n.w.(syncer); ok && n.write && !n.noFlush {
		return s.Sync()
	}
	return nil
}

// Close implements driver.Node. The object stays the caller's.
func (*node) Close(context.Context) error { return nil }

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, driver.Errorf(driver.ErrInvalid, "negative offset")
	}
	size := n.Size()
	if off >= size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	end := error(nil)
	if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	switch m, err := n.r.ReadAt(p, off); {
	case m == len(p):
		return m, end
	case err == nil || err == io.EOF:
		return m, driver.Errorf(driver.ErrTruncated, "the storage should have %d bytes and ends at %d", size, off+int64(m))
	default:
		return m, err
	}
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.checkWrite(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	if off+int64(len(p)) > n.Size() {
		return 0, driver.Errorf(driver.ErrNoSpace, "the storage has %d bytes and cannot grow", n.Size())
	}
	return n.w.WriteAt(p, off)
}

// WriteAt implements driver.Storage.
func (g *growing) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := g.checkWrite(ctx, off, int64(len(p))); err != nil || len(p) == 0 {
		return 0, err
	}
	g.sizeMu.RLock()
	defer g.sizeMu.RUnlock()
	m, err := g.w.WriteAt(p, off)
	for m > 0 {
		if old := g.size.Load(); off+int64(m) <= old || g.size.CompareAndSwap(old, off+int64(m)) {
			break
		}
	}
	return m, err
}

func (n *node) checkWrite(ctx context.Context, off, length int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !n.write {
		return driver.Errorf(driver.ErrReadOnly, "the storage was opened for reading")
	}
	if off < 0 || off > math.MaxInt64-length {
		return driver.Errorf(driver.ErrInvalid, "cannot write at offset %d", off)
	}
	return nil
}

// Resize implements driver.Resizer.
func (g *growing) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if err := g.checkWrite(ctx, size, 0); err != nil {
		return err
	}
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff {
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", opt.Prealloc)
	}
	g.sizeMu.Lock()
	defer g.sizeMu.Unlock()
	if err := g.w.(truncater).Truncate(size); err != nil {
		return err
	}
	g.size.Store(size)
	return nil
}

// Map implements driver.Storage: nothing is known of holes.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	if err := ctx.Err(); err != nil {
		return driver.Extent{}, err
	}
	size := n.Size()
	if off >= size {
		return driver.Extent{}, nil
	}
	return driver.Extent{Length: min(length, size-off), Kind: driver.ExtentData, HostOffset: off, HasOffset: true}, nil
}
