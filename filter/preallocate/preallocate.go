// Package preallocate is the filter that lets a file grow in large steps: a write
// beyond the end reserves room behind it. Closing the node takes back what was not
// used.
package preallocate

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
	"github.com/cowl-disk/cowl/opts"
)

type options struct {
	Align int64 `opt:"prealloc-align" type:"size" default:"1048576" help:"on preallocation, align file length to this number, default 1M"`
	Size  int64 `opt:"prealloc-size" type:"size" default:"134217728" help:"how much to preallocate, default 128M"`
}

var desc = driver.Desc{
	Name:        "preallocate",
	Kind:        driver.KindFilter,
	Children:    pass.Children(),
	Summary:     "Lets a file grow in large steps",
	OpenOptions: opts.SchemaOf(options{}),
}

type preallocate struct{}

// New returns the driver "preallocate".
func New() driver.Driver { return preallocate{} }

// Desc implements driver.Driver.
func (preallocate) Desc() *driver.Desc { return &desc }

// Open implements driver.Driver.
func (preallocate) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o options
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	if o.Align <= 0 || o.Align%512 != 0 {
		return nil, driver.Errorf(driver.ErrInvalid, "prealloc-align parameter of preallocate filter is not aligned to 512")
	}
	return &node{Node: pass.Node{Child: req.File}, opt: o, end: req.File.Size(), room: req.File.Size()}, nil
}

type node struct {
	pass.Node
	opt options

	mu   sync.Mutex
	end  int64 // of the data: what the node calls its size
	room int64 // the length of the child
}

// Size implements driver.Node.
func (n *node) Size() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.end
}

// grow reserves room for a write that ends at end. It is a help only: without room the
// write decides what happens.
func (n *node) grow(ctx context.Context, end int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if end <= n.room || n.opt.Size == 0 {
		return
	}
	want := (end + n.opt.Size + n.opt.Align - 1) / n.opt.Align * n.opt.Align
	r, ok := n.Child.(driver.Resizer)
	if ok && r.Resize(ctx, want, driver.ResizeOptions{Prealloc: driver.PreallocFalloc}) == nil {
		n.room = want
	}
}

// written records that data end at end.
func (n *node) written(end int64) {
	n.mu.Lock()
	n.end = max(n.end, end)
	n.room = max(n.room, end)
	n.mu.Unlock()
}

// ReadAt implements driver.Storage: reserved room is not part of the contents.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	left := max(n.Size()-off, 0)
	if int64(len(p)) <= left {
		return n.Child.ReadAt(ctx, p, off)
	}
	m, err := n.Child.ReadAt(ctx, p[:left], off)
	if err == nil {
		err = io.EOF
	}
	return m, err
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	n.grow(ctx, off+int64(len(p)))
	m, err := n.Child.WriteAt(ctx, p, off)
	n.written(off + int64(m))
	return m, err
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	n.grow(ctx, off+length)
	err := n.Node.WriteZeroes(ctx, off, length, flags)
	if err == nil {
		n.written(off + length)
	}
	return err
}

// Map implements driver.Storage.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	left := n.Size() - off
	if left <= 0 {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	return n.Child.Map(ctx, off, min(length, left))
}

// Resize implements driver.Resizer.
func (n *node) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	// Reserved room holds nothing, but what stood behind an old end may.
	if n.room > n.end {
		if err := n.Node.Resize(ctx, n.end, driver.ResizeOptions{}); err != nil {
			return err
		}
		n.room = n.end
	}
	if err := n.Node.Resize(ctx, size, opt); err != nil {
		return err
	}
	n.end, n.room = size, size
	return nil
}

// Close implements driver.Node: it gives back the room that was not used.
func (n *node) Close(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.room <= n.end {
		return nil
	}
	n.room = n.end
	if err := n.Node.Resize(ctx, n.end, driver.ResizeOptions{}); err != nil && !errors.Is(err, driver.ErrUnsupported) {
		return err
	}
	return nil
}
