package vvfat

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
)

// node is an open disk.
type node struct {
	plan  *plan
	files *fileCache
	warn  func(string)

	mu       sync.RWMutex
	contents contents

	// Of disks that can be written.
	overlay *overlay
	top     *item // what the folder holds, as far as the disk shows it
	noFlush bool
	changed bool // the guest has written what the folder does not have
	looked  bool // since its last write, and found its file system inconsistent
}

var (
	_ driver.Storage    = (*node)(nil)
	_ driver.ZeroWriter = (*node)(nil)
)

// open opens a folder.
func open(ctx context.Context, o *openOptions, label [labelSize]byte, req *driver.OpenRequest) (_ driver.Node, err error) {
	root, err := os.OpenRoot(*o.Dir)
	if err != nil {
		return nil, driver.Errorf(err, "could not read directory %s", *o.Dir)
	}
	n := &node{files: &fileCache{root: root, dir: *o.Dir}, warn: req.Env.Warn, noFlush: req.Cache.NoFlush}
	defer func() {
		if err != nil {
			_ = n.release()
		}
	}()
	s := &scanner{ctx: ctx, root: root, dir: *o.Dir, links: !o.RW, warn: n.warn}
	top, err := s.scan()
	if err != nil {
		return nil, err
	}
	if n.plan, err = o.layOut(top, label); err != nil {
		return nil, err
	}
	n.contents = n.plan.contents()
	if o.RW {
		if err = n.makeWritable(top); err != nil {
			return nil, driver.Errorf(err, "could not make a temporary file for what is written: %w", err)
		}
	}
	return n, nil
}

// makeWritable gives the node its overlay. The directories are in it from the beginning, so that
// what is below it are files only.
func (n *node) makeWritable(top *item) (err error) {
	if n.overlay, err = newOverlay(); err != nil {
		return err
	}
	size := n.plan.ClusterSize()
	for _, o := range n.plan.objects {
		if o.entries == nil {
			continue
		}
		b := make([]byte, int64(o.count)*size)
		copy(b, o.entries)
		if err := n.overlay.write(b, n.plan.start+n.plan.Offset(o.first)); err != nil {
			return err
		}
	}
	n.overlay.dirty = sectorSet{}
	n.top = top
	n.contents = top.contents(nil, size).sorted(size)
	return nil
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.plan.size }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits {
	return driver.Limits{RequestAlignment: sector, ZeroAlignment: sector}
}

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
	if n.overlay == nil {
		return n.fill(ctx, p, off)
	}
	for len(p) > 0 {
		written, count := n.overlay.at(off, int64(len(p)))
		var err error
		if written {
			err = n.overlay.read(p[:count], off)
		} else {
			err = n.fill(ctx, p[:count], off)
		}
		if err != nil {
			return err
		}
		p, off = p[count:], off+count
	}
	return nil
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	err := n.change(ctx, off, int64(len(p)), func() error { return n.overlay.write(p, off) })
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, _ driver.ZeroFlags) error {
	return n.change(ctx, off, length, func() error { return n.overlay.writeZeroes(ctx, off, length) })
}

// change does a write to the overlay.
func (n *node) change(ctx context.Context, off, length int64, do func() error) error {
	switch {
	case n.overlay == nil:
		return driver.Errorf(driver.ErrReadOnly, "the node is read-only")
	case off < 0 || length < 0 || off%sector != 0 || length%sector != 0:
		return driver.Errorf(driver.ErrInvalid, "impossible range: %d bytes at %d", length, off)
	case off > n.plan.size-length:
		return driver.Errorf(driver.ErrRange, "beyond the end")
	case ctx.Err() != nil:
		return ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changed, n.looked = true, false
	if err := do(); err != nil {
		return driver.Errorf(err, "could not keep what is written to the disk: %w", err)
	}
	return nil
}

// Flush implements driver.Node: the folder gets what the guest has written, if its file
// system is consistent.
func (n *node) Flush(ctx context.Context) error {
	if n.noFlush {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.apply(ctx, false)
}

// Close implements driver.Node. What cannot reach the folder is kept as an image of the disk,
// which the error names.
func (n *node) Close(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.apply(ctx, true)
	if err != nil {
		name, saveErr := n.save(context.WithoutCancel(ctx))
		if saveErr != nil {
			err = driver.Errorf(err, "not all that was written to the disk is in the folder '%s', and an image of the disk could not be kept (%w): %w", n.files.dir, saveErr, err)
		} else {
			err = driver.Errorf(err, "not all that was written to the disk is in the folder '%s', an image of the disk is kept in '%s': %w", n.files.dir, name, err)
		}
	}
	return errors.Join(err, n.release())
}

func (n *node) release() error {
	n.files.forget(nil)
	err := n.files.root.Close()
	if n.overlay != nil {
		err = errors.Join(err, n.overlay.close())
	}
	return err
}

// save writes the whole disk into a file.
func (n *node) save(ctx context.Context) (name string, err error) {
	f, err := os.CreateTemp(temporaryDir(), "vvfat-*.img")
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	b := make([]byte, 1<<20)
	for off := int64(0); off < n.plan.size; {
		e := n.extent(off, min(n.plan.size-off, int64(len(b))))
		if e.Kind == driver.ExtentData {
			if err := n.read(ctx, b[:e.Length], off); err != nil {
				return "", err
			}
			if _, err := f.WriteAt(b[:e.Length], off); err != nil {
				return "", err
			}
		}
		off += e.Length
	}
	return f.Name(), errors.Join(f.Truncate(n.plan.size), f.Sync())
}
