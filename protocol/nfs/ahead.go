package nfs

import (
	"context"
	"io"
	"slices"
	"sync"

	"github.com/cowl-disk/cowl/nfs"
)

const (
	// windowSize is what is fetched ahead at once, in bytes, and maxAhead how many windows
	// of it there are, at most, before the reader.
	windowSize = 1 << 20
	maxAhead   = 8
	// maxWindows is how many windows are held at most.
	maxWindows = 16
	// readers is how many ends of reads are remembered: several goroutines may read in order
	// together.
	readers = 8
)

// ahead fetches what a file will be asked for next while it is read in order, so that
// reading does not wait for a round trip each time. It is for files that nobody here writes.
type ahead struct {
	f       *nfs.File
	size    func() int64
	ctx     context.Context // of fetches
	cancel  context.CancelFunc
	fetches sync.WaitGroup
	buffers sync.Pool // of *[]byte

	mu      sync.Mutex
	windows []*window // in the order in which they were made
	ends    []int64   // where the last reads ended
	run     int64     // how many windows are fetched ahead
}

// window is a part of the file, which is there once ready is closed.
type window struct {
	number  int64
	ready   chan struct{}
	buf     *[]byte
	n       int // bytes
	err     error
	users   int
	dropped bool
}

func newAhead(f *nfs.File, size func() int64) *ahead {
	a := &ahead{f: f, size: size, run: 1}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.buffers.New = func() any { b := make([]byte, windowSize); return &b }
	return a
}

func (a *ahead) close() {
	a.cancel()
	a.fetches.Wait()
}

// read fills p from off, like nfs.File.ReadAt.
func (a *ahead) read(ctx context.Context, p []byte, off int64) (int, error) {
	follows := a.follows(off, off+int64(len(p)))
	for done := 0; done < len(p); {
		at := off + int64(done)
		w := a.get(at/windowSize, follows)
		if w == nil {
			n, err := a.f.ReadAt(ctx, p[done:], at)
			return done + n, err
		}
		n, err := w.copy(ctx, p[done:], at%windowSize)
		a.put(w, at%windowSize+int64(n) == windowSize)
		if done += n; err == io.EOF {
			return done, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil { // asked for again, so that the error is that of this range
			n, err := a.f.ReadAt(ctx, p[done:], off+int64(done))
			return done + n, err
		}
	}
	return len(p), nil
}

// copy waits for the window and copies from one of its bytes on.
func (w *window) copy(ctx context.Context, p []byte, from int64) (int, error) {
	select {
	case <-w.ready:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if w.err != nil {
		return 0, w.err
	}
	if from >= int64(w.n) {
		return 0, io.EOF
	}
	return copy(p, (*w.buf)[from:w.n]), nil
}

// follows says whether a read continues an earlier one, and remembers its end.
func (a *ahead) follows(off, end int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.ends, off)
	if i >= 0 {
		a.ends = slices.Delete(a.ends, i, i+1)
	}
	if len(a.ends) == readers {
		a.ends = slices.Delete(a.ends, 0, 1)
	}
	a.ends = append(a.ends, end)
	return i >= 0
}

// get returns a window, which may still be on its way, for a reader that gives it back with
// put. Readers in order have further windows fetched; others get nil where there is none.
func (a *ahead) get(number int64, follows bool) *window {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.find(number)
	if w == nil && !follows {
		a.run = 1
		return nil
	}
	if w == nil {
		w = a.fetch(number)
	}
	w.users++
	if follows {
		for i := number + 1; i <= number+a.run && i*windowSize < a.size(); i++ {
			if a.find(i) == nil {
				a.fetch(i)
			}
		}
		a.run = min(2*a.run, maxAhead)
	}
	return w
}

// find is called with mu.
func (a *ahead) find(number int64) *window {
	if i := slices.IndexFunc(a.windows, func(w *window) bool { return w.number == number }); i >= 0 {
		return a.windows[i]
	}
	return nil
}

// fetch begins to fetch a window. It is called with mu.
func (a *ahead) fetch(number int64) *window {
	for len(a.windows) >= maxWindows {
		a.drop(0)
	}
	w := &window{number: number, ready: make(chan struct{}), buf: a.buffers.Get().(*[]byte), users: 1}
	a.windows = append(a.windows, w)
	a.fetches.Go(func() {
		n := min(windowSize, max(0, a.size()-number*windowSize))
		w.n, w.err = a.f.ReadAt(a.ctx, (*w.buf)[:n], number*windowSize)
		if w.err == io.EOF {
			w.err = nil
		}
		close(w.ready)
		a.put(w, w.err != nil)
	})
	return w
}

// drop forgets a window. It is called with mu.
func (a *ahead) drop(i int) {
	w := a.windows[i]
	a.windows = slices.Delete(a.windows, i, i+1)
	w.dropped = true
	a.recycle(w)
}

func (a *ahead) recycle(w *window) {
	if w.dropped && w.users == 0 {
		a.buffers.Put(w.buf)
		w.buf = nil
	}
}

// put ends a use of a window; over: nobody will want it again.
func (a *ahead) put(w *window, over bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.users--
	if i := slices.Index(a.windows, w); over && i >= 0 {
		a.drop(i)
		return
	}
	a.recycle(w)
}
