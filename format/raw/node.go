package raw

import (
	"context"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
)

// node is an open raw image. It is constant after Open, so that the methods
// need no lock.
type node struct {
	file   driver.Storage
	offset int64
	limit  int64 // the option size, -1 if it was not given
	write  bool
}

var (
	_ driver.Allocator  = (*node)(nil)
	_ driver.ZeroWriter = (*node)(nil)
	_ driver.Discarder  = (*node)(nil)
	_ driver.Resizer    = (*node)(nil)
)

// Size implements driver.Node. It follows the size of the file.
func (n *node) Size() int64 {
	left := max(roundUp(n.file.Size())-n.offset, 0)
	if n.limit >= 0 {
		return min(n.limit, left)
	}
	return roundUp(left)
}

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return n.file.Limits() }

// Traits implements driver.Node: those of the file, which may be cut.
func (n *node) Traits() driver.Traits {
	t := n.file.Traits()
	return driver.Traits{FixedSize: t.FixedSize || n.limit >= 0, ZeroInit: t.ZeroInit, ZeroOnGrow: t.ZeroOnGrow}
}

// State implements driver.Stater: whether anything is known depends on the file.
func (n *node) State(ctx context.Context) (*driver.State, error) {
	return driver.StateBelow(ctx, n.file)
}

// Flush implements driver.Node. There is no metadata: it flushes the file.
func (n *node) Flush(ctx context.Context) error {
	if !n.write {
		return nil
	}
	return n.file.Flush(ctx)
}

// Close implements driver.Node.
func (n *node) Close(context.Context) error { return nil }

// Map implements driver.Format.
func (n *node) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	length = min(length, n.Size()-off)
	if length <= 0 {
		return driver.Extent{}, nil
	}
	e := driver.Extent{Length: length, Kind: driver.ExtentData, Child: n.file,
		HostOffset: n.offset + off, HasOffset: true, Recurse: true}
	switch left := n.file.Size() - e.HostOffset; {
	case left <= 0: // the rest of the last sector
		e.Kind, e.Recurse = driver.ExtentZero, false
	default:
		e.Length = min(length, left)
	}
	return e, nil
}

// ReadEncoded implements driver.Format; Map never asks for it.
func (n *node) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrInvalid, "raw images have no encoded extents")
}

// Allocate implements driver.Allocator: every byte has its place.
func (n *node) Allocate(_ context.Context, off, length int64) (driver.WriteTarget, error) {
	if err := n.check(off, length); err != nil {
		return driver.WriteTarget{}, err
	}
	return driver.WriteTarget{Length: length, Child: n.file, HostOffset: n.offset + off}, nil
}

// check refuses changes of read-only images and changes outside of the selected
// part of the file.
func (n *node) check(off, length int64) error {
	switch {
	case !n.write:
		return driver.Errorf(driver.ErrReadOnly, "the image is read-only")
	case off < 0 || length < 0 || off > math.MaxInt64-length || off+length > math.MaxInt64-n.offset:
		return driver.Errorf(driver.ErrInvalid, "impossible range: %d bytes at %d", length, off)
	case n.limit >= 0 && off+length > n.limit:
		return driver.Errorf(driver.ErrRange, "%d bytes at %d are beyond the size given for the image", length, off)
	}
	return nil
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	if err := n.check(off, length); err != nil {
		return err
	}
	z, ok := n.file.(driver.ZeroWriter)
	if !ok {
		return driver.ErrUnsupported
	}
	return z.WriteZeroes(ctx, n.offset+off, length, flags)
}

// Discard implements driver.Discarder.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	if err := n.check(off, length); err != nil {
		return err
	}
	d, ok := n.file.(driver.Discarder)
	if !ok {
		return driver.ErrUnsupported
	}
	return d.Discard(ctx, n.offset+off, length)
}

// Resize implements driver.Resizer.
func (n *node) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	switch {
	case n.limit >= 0:
		return driver.Errorf(driver.ErrUnsupported, "cannot resize fixed-size raw disks")
	case !n.write:
		return driver.Errorf(driver.ErrReadOnly, "the image is read-only")
	case size < 0 || size > math.MaxInt64-n.offset:
		return driver.Errorf(driver.ErrInvalid, "disk size too large for the chosen offset")
	}
	r, ok := n.file.(driver.Resizer)
	if !ok {
		return driver.Errorf(driver.ErrUnsupported, "image format driver does not support resize")
	}
	return r.Resize(ctx, n.offset+size, opt)
}
