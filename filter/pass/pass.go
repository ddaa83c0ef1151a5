// Package pass holds what filters have in common: a node that passes every request to
// its child. Filters embed it and change what they filter.
package pass

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// Role is the usual role of the child that a filter passes through.
const Role = "file"

// Children declares it.
func Children() []driver.ChildDesc {
	return []driver.ChildDesc{{Role: Role, Use: driver.UseFiltered}}
}

// Node passes requests to Child, which belongs to the block layer.
type Node struct{ Child driver.Storage }

var (
	_ driver.Storage    = Node{}
	_ driver.ZeroWriter = Node{}
	_ driver.Discarder  = Node{}
	_ driver.Resizer    = Node{}
)

// Size implements driver.Node.
func (n Node) Size() int64 { return n.Child.Size() }

// Limits implements driver.Node: the child's requests are cut by its own image, so
// that only what makes requests cheap counts.
func (n Node) Limits() driver.Limits {
	l := n.Child.Limits()
	l.MaxTransfer = 0
	return l
}

// Traits implements driver.Node: those of the child that are no matter of a format.
func (n Node) Traits() driver.Traits {
	t := n.Child.Traits()
	return driver.Traits{ZeroInit: t.ZeroInit, ZeroOnGrow: t.ZeroOnGrow, FixedSize: t.FixedSize}
}

// State implements driver.Stater: whether anything is known depends on the child.
func (n Node) State(ctx context.Context) (*driver.State, error) {
	return driver.StateBelow(ctx, n.Child)
}

// Flush implements driver.Node.
func (n Node) Flush(ctx context.Context) error { return n.Child.Flush(ctx) }

// Close implements driver.Node: the child is not the filter's to close.
func (Node) Close(context.Context) error { return nil }

// ReadAt implements driver.Storage.
func (n Node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return n.Child.ReadAt(ctx, p, off)
}

// WriteAt implements driver.Storage.
func (n Node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	return n.Child.WriteAt(ctx, p, off)
}

// Map implements driver.Storage. The block layer asks the child itself where it
// describes a filter; this answer is for formats on top of one.
func (n Node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	return n.Child.Map(ctx, off, length)
}

// WriteZeroes implements driver.ZeroWriter.
func (n Node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	return WriteZeroes(ctx, n.Child, off, length, flags)
}

// Discard implements driver.Discarder.
func (n Node) Discard(ctx context.Context, off, length int64) error {
	return Discard(ctx, n.Child, off, length)
}

// Resize implements driver.Resizer.
func (n Node) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	r, ok := n.Child.(driver.Resizer)
	if !ok {
		return driver.Errorf(driver.ErrUnsupported, "image format driver does not support resize")
	}
	return r.Resize(ctx, size, opt)
}

// WriteZeroes writes zeroes to a child, ErrUnsupported if it cannot.
func WriteZeroes(ctx context.Context, s driver.Storage, off, n int64, flags driver.ZeroFlags) error {
	z, ok := s.(driver.ZeroWriter)
	if !ok {
		return driver.ErrUnsupported
	}
	return z.WriteZeroes(ctx, off, n, flags)
}

// Discard discards on a child, ErrUnsupported if it cannot.
func Discard(ctx context.Context, s driver.Storage, off, n int64) error {
	d, ok := s.(driver.Discarder)
	if !ok {
		return driver.ErrUnsupported
	}
	return d.Discard(ctx, off, n)
}
