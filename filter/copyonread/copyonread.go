// Package copyonread is the filter that stores in an overlay what is read from its
// backing file.
package copyonread

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/rangelock"
	"github.com/cowl-disk/cowl/opts"
)

// most is how much is copied at once.
const most = 1 << 20

var desc = driver.Desc{
	Name:        "copy-on-read",
	Kind:        driver.KindFilter,
	Children:    pass.Children(),
	Summary:     "Stores in an overlay what is read from its backing file",
	OpenOptions: opts.SchemaOf(struct{}{}),
}

type copyOnRead struct{}

// New returns the driver "copy-on-read".
func New() driver.Driver { return copyOnRead{} }

// Desc implements driver.Driver.
func (copyOnRead) Desc() *driver.Desc { return &desc }

// layered is a child that tells what it holds itself.
type layered interface {
	AllocatedLayer(ctx context.Context, off, n int64) (bool, int64, error)
}

// Open implements driver.Driver.
func (copyOnRead) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	if err := desc.OpenOptions.Decode(req.Options, &struct{}{}); err != nil {
		return nil, err
	}
	if !req.Access.Write {
		return nil, driver.Errorf(driver.ErrReadOnly, "block node is read-only")
	}
	l, ok := req.File.(layered)
	if !ok {
		return nil, driver.Errorf(driver.ErrUnsupported, "copy-on-read: the child does not report what it holds")
	}
	return &node{Node: pass.Node{Child: req.File}, layer: l, unit: unitOf(req.File.Limits())}, nil
}

// unitOf is what is copied at least: a cluster, or the part of one that an image can hold
// without the rest.
func unitOf(l driver.Limits) int64 {
	unit := l.ClusterSize
	if l.ZeroAlignment > 0 && l.ZeroAlignment < unit {
		unit = l.ZeroAlignment
	}
	return max(unit, 4096)
}

// node copies under an exclusive lock of the range, which writes share: a copy never
// undoes a write that came between its read and its write.
type node struct {
	pass.Node
	layer  layered
	unit   int64
	ranges rangelock.Locker
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	end := min(off+int64(len(p)), n.Size())
	for pos := off / n.unit * n.unit; pos < end; {
		there, length, err := n.layer.AllocatedLayer(ctx, pos, end-pos)
		if err != nil {
			return 0, err
		}
		if length <= 0 {
			break
		}
		if !there {
			if length, err = n.fill(ctx, pos, length); err != nil {
				return 0, err
			}
		}
		pos += length
	}
	return n.Child.ReadAt(ctx, p, off)
}

// fill copies whole units from the backing file, at least one and at most those around
// length bytes at off, and returns how far it came.
func (n *node) fill(ctx context.Context, off, length int64) (int64, error) {
	start := off / n.unit * n.unit
	end := min((off+length+n.unit-1)/n.unit*n.unit, start+max(most/n.unit*n.unit, n.unit), n.Size())
	held, err := n.ranges.Lock(ctx, start, end-start, rangelock.Exclusive)
	if err != nil {
		return 0, err
	}
	defer held.Unlock()
	for pos := start; pos < end; {
		there, m, err := n.layer.AllocatedLayer(ctx, pos, end-pos)
		if err != nil {
			return 0, err
		}
		if m <= 0 {
			break
		}
		if !there {
			if err := n.copy(ctx, pos, m); err != nil {
				return 0, err
			}
		}
		pos += m
	}
	return end - off, nil
}

// copy writes what the child shows at off to the child.
func (n *node) copy(ctx context.Context, off, length int64) error {
	ext, err := n.Child.Map(ctx, off, length)
	if err != nil {
		return err
	}
	if ext.Kind == driver.ExtentZero && ext.Length >= length {
		if err := pass.WriteZeroes(ctx, n.Child, off, length, 0); err == nil {
			return nil
		}
	}
	buf := bufpool.Get(int(length))
	defer bufpool.Put(buf)
	if _, err := n.Child.ReadAt(ctx, buf, off); err != nil {
		return err
	}
	driver.EventsOf(n.Child).Raise("cor_write")
	_, err = n.Child.WriteAt(ctx, buf, off)
	return err
}

// change runs f while no copy of the range is under way.
func (n *node) change(ctx context.Context, off, length int64, f func() error) error {
	if length <= 0 {
		return f()
	}
	held, err := n.ranges.Lock(ctx, off, length, rangelock.Shared)
	if err != nil {
		return err
	}
	defer held.Unlock()
	return f()
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (m int, err error) {
	err = n.change(ctx, off, int64(len(p)), func() error {
		m, err = n.Child.WriteAt(ctx, p, off)
		return err
	})
	return m, err
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	return n.change(ctx, off, length, func() error { return n.Node.WriteZeroes(ctx, off, length, flags) })
}

// Discard implements driver.Discarder.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	return n.change(ctx, off, length, func() error { return n.Node.Discard(ctx, off, length) })
}
