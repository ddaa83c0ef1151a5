package http

import (
	"bytes"
	"context"
	"sync"
)

// cacheBytes bounds the windows that are kept, runBytes what one request fetches.
const (
	cacheBytes = 24 << 20
	runBytes   = 4 << 20
)

// cache holds windows of the object, each of the same size.
type cache struct {
	src    source
	ctx    context.Context // of what is fetched
	size   int64           // of the object
	window int64
	most   int // windows

	mu      sync.Mutex
	windows map[int64]*window // by number
	clock   int64
	run     int64 // how many windows the last request fetched
	fetches sync.WaitGroup
}

// window is a part of the object, which is there once ready is closed.
type window struct {
	ready chan struct{}
	data  []byte
	err   error
	used  int64 // by the clock
}

// newCache returns a cache of an object of size bytes, whose windows have the length
// given. ctx ends when the cache is to be closed.
func newCache(ctx context.Context, src source, size, length int64) *cache {
	return &cache{src: src, ctx: ctx, size: size, window: length, most: int(cacheBytes / length), windows: map[int64]*window{}, run: 1}
}

// put adds a window that is known.
func (c *cache) put(number int64, data []byte) {
	w := &window{ready: make(chan struct{}), data: data}
	close(w.ready)
	c.windows[number] = w
}

// close waits for what is being fetched. The context of the node has ended.
func (c *cache) close() { c.fetches.Wait() }

// read fills p from off.
func (c *cache) read(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		number := off / c.window
		w := c.get(number)
		select {
		case <-w.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		if w.err != nil {
			c.drop(number, w)
			return w.err
		}
		n := copy(p, w.data[off-number*c.window:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// get returns a window, which may still be on its way.
func (c *cache) get(number int64) *window {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock++
	w, ok := c.windows[number]
	_, follows := c.windows[number-1]
	if !ok {
		if follows {
			c.run = min(c.run*2, max(1, runBytes/c.window))
		} else {
			c.run = 1
		}
		c.fetch(number, c.run)
		w = c.windows[number]
	} else if ahead := number + max(1, c.run/2); follows && c.windows[ahead] == nil && ahead*c.window < c.size {
		// The reader comes to the end of what was fetched.
		c.run = min(c.run*2, max(1, runBytes/c.window))
		c.fetch(ahead, c.run)
	}
	w.used = c.clock
	return w
}

// fetch begins to fetch a run of windows that are not there yet. The lock is held.
func (c *cache) fetch(number, count int64) {
	var list []*window
	for i := number; i < number+count && i*c.window < c.size && c.windows[i] == nil; i++ {
		w := &window{ready: make(chan struct{}), used: c.clock}
		c.windows[i] = w
		list = append(list, w)
	}
	c.evict()
	c.fetches.Go(func() { c.fill(list, number*c.window) })
}

// fill fetches windows by one request; each is ready as soon as it is complete.
func (c *cache) fill(list []*window, off int64) {
	buf := make([]byte, min(int64(len(list))*c.window, c.size-off))
	done, next := int64(0), 0
	complete := func(n int) {
		done += int64(n)
		for next < len(list) {
			end := min(int64(next+1)*c.window, int64(len(buf)))
			if done < end {
				return
			}
			// A copy: one window that stays must not keep the whole run.
			list[next].data = bytes.Clone(buf[int64(next)*c.window : end])
			close(list[next].ready)
			next++
		}
	}
	err := c.src.read(c.ctx, buf, off, complete)
	for _, w := range list[next:] {
		w.err = err
		close(w.ready)
	}
}

// drop forgets a window that could not be fetched, so that the next read tries again.
func (c *cache) drop(number int64, w *window) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.windows[number] == w {
		delete(c.windows, number)
	}
}

// evict forgets the windows that were not used for the longest time. The lock is held.
func (c *cache) evict() {
	for len(c.windows) > c.most {
		oldest, at := int64(-1), int64(0)
		for i, w := range c.windows {
			if oldest < 0 || w.used < at {
				oldest, at = i, w.used
			}
		}
		delete(c.windows, oldest)
	}
}
