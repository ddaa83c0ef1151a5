package clustertable

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
)

// Load brings the slice at off into memory. Several callers share one reading; a
// caller whose ctx ends stops waiting for it, and a caller that shared the reading of
// somebody whose ctx ended reads itself. The caller looks the slice up again: another
// one may have pushed it out already.
func (k *Cache) Load(ctx context.Context, f driver.Storage, off int64) error {
	for {
		k.c.Lock.Lock()
		if k.slices[off] != nil {
			k.c.Lock.Unlock()
			return nil
		}
		l := k.loading[off]
		if l == nil {
			return k.loadFirst(ctx, f, off)
		}
		k.c.Lock.Unlock()
		select {
		case <-l.done:
			if l.abandoned && ctx.Err() == nil {
				continue
			}
			return l.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// loadFirst reads the slice at off, which nobody else is reading. The lock is held
// exclusively; it is released.
func (k *Cache) loadFirst(ctx context.Context, f driver.Storage, off int64) error {
	l := &load{done: make(chan struct{})}
	k.loading[off] = l
	n := k.sliceEnd(off) - off
	k.c.Lock.Unlock()

	var s *Slice
	s, l.err = k.read(ctx, f, off, n)
	l.abandoned = l.err != nil && ctx.Err() != nil

	k.c.Lock.Lock()
	// Whoever dropped the slice meanwhile has removed l: what was read is old.
	if k.loading[off] == l {
		delete(k.loading, off)
		if l.err == nil {
			k.put(s)
		}
	}
	k.c.Lock.Unlock()
	close(l.done)
	return l.err
}

// read reads the slice of n bytes at off.
func (k *Cache) read(ctx context.Context, f driver.Storage, off, n int64) (*Slice, error) {
	s := &Slice{Off: off, Data: make([]byte, n)}
	var err error
	if k.c.Load != nil {
		err = k.c.Load(ctx, s.Data, off)
	} else {
		err = readPadded(ctx, f, s.Data, off)
	}
	if err != nil {
		return nil, err
	}
	s.unsure = k.c.Writable && mayHaveHole(s.Data, off)
	return s, nil
}

// readPadded fills p from offset off of f, with zeroes for what lies beyond its end.
func readPadded(ctx context.Context, f driver.Storage, p []byte, off int64) error {
	n, err := f.ReadAt(ctx, p, off)
	if n < len(p) && err != nil && err != io.EOF {
		return err
	}
	clear(p[n:])
	return nil
}

// Fetch returns the slice at off, reading it if need be. The lock is held
// exclusively, across the I/O: for tables that are seldom read. Before the slice is
// changed, CoverFetched is called.
func (k *Cache) Fetch(ctx context.Context, f driver.Storage, off int64) (*Slice, error) {
	if s := k.Get(off); s != nil {
		return s, nil
	}
	s, err := k.read(ctx, f, off, k.sliceEnd(off)-off)
	if err == nil {
		k.put(s)
	}
	return s, err
}

// View calls fn with the slice at the offset that at returns, loading it if need
// be; with nil if the offset is 0, where no table lies. Both are called with the lock
// held shared; at is called again after I/O, since tables may have moved. fn must not
// keep the slice.
func (k *Cache) View(ctx context.Context, f driver.Storage, at func() int64, fn func(s *Slice)) error {
	for {
		k.c.Lock.RLock()
		off := at()
		s := k.lookup(off)
		if s != nil || off == 0 {
			fn(s)
			k.c.Lock.RUnlock()
			return nil
		}
		k.c.Lock.RUnlock()
		if err := k.Load(ctx, f, off); err != nil {
			return err
		}
	}
}

// Edit is View with the lock held exclusively. fn may change the slice, and returns
// whether it did. The slice has room on disk.
func (k *Cache) Edit(ctx context.Context, f driver.Storage, at func() int64, fn func(s *Slice) (changed bool)) error {
	for {
		k.c.Lock.Lock()
		off := at()
		s := k.lookup(off)
		if s == nil && off != 0 {
			k.c.Lock.Unlock()
			if err := k.Load(ctx, f, off); err != nil {
				return err
			}
			continue
		}
		if s != nil && s.unsure {
			k.c.Lock.Unlock()
			if err := k.cover(ctx, f, s); err != nil {
				return err
			}
			continue
		}
		if fn(s) {
			k.MarkDirty(s)
		}
		k.c.Lock.Unlock()
		return nil
	}
}

func (k *Cache) lookup(off int64) *Slice {
	if off == 0 {
		return nil
	}
	return k.Get(off)
}
