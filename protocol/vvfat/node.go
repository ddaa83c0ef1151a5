package vvfat

import (
	"context"
	"io"
	"os"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
)

// node is an open disk.
type node struct {
	plan  *plan
	files *fileCache

	mu       sync.RWMutex
	contents contents
}

var _ driver.Storage = (*node)(nil)

// open opens a folder.
func open(ctx context.Context, o *openOptions, label [labelSize]byte, req *driver.OpenRequest) (driver.Node, error) {
	root, err := os.OpenRoot(*o.Dir)
	if err != nil {
		return nil, driver.Errorf(err, "could not read directory %s", *o.Dir)
	}
	s := &scanner{ctx: ctx, root: root, dir: *o.Dir, links: !o.RW, warn: req.Env.Warn}
	top, err := s.scan()
	if err != nil {
		_ = root.Close()
		return nil, err
	}
	p, err := o.layOut(top, label)
	if err != nil {
		_ = root.Close()
		return nil, err
	}
	return &node{plan: p, files: &fileCache{root: root, dir: *o.Dir}, contents: p.contents()}, nil
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.plan.size }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return driver.Limits{RequestAlignment: sector} }

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits { return driver.Traits{FixedSize: true} }

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, driver.Errorf(driver.ErrInvalid, "negative offset")
	}
	var end error
	if left := max(n.plan.size-off, 0); int64(len(p)) > left {
		p, end = p[:left], io.EOF
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if err := n.read(ctx, p, off); err != nil {
		return 0, err
	}
	return len(p), end
}

// read fills p, all of which is within the disk. Called with mu.
func (n *node) read(ctx context.Context, p []byte, off int64) error {
	return n.fill(ctx, p, off)
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	return 0, driver.Errorf(driver.ErrReadOnly, "the node is read-only")
}

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error { return nil }

// Close implements driver.Node.
func (n *node) Close(context.Context) error {
	n.files.forget(nil)
	return n.files.root.Close()
}
