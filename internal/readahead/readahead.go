// Package readahead fetches what reads in order will ask for next, so that they do not wait for
// a round trip each. It is for objects that nobody here writes.
//
// Reader.mu is not held while anything is fetched; memory of Config.Fetch is given back under it.
package readahead

import (
	"context"
	"io"
	"slices"
	"sync"
)

// readers is how many ends of reads are remembered: several goroutines may read in order
// together.
const readers = 8

// Config says how much is fetched.
type Config struct {
	// Window is what is fetched at once, in bytes.
	Window int64
	// Ahead is how many windows are fetched before the reader, at most. It is reached by
	// doubling, or at once with Eager.
	Ahead int64
	// Keep is how many windows are held at most.
	Keep int
	// Eager: the first read of all counts as one in order.
	Eager bool
	// Size is how many bytes the object has.
	Size func() int64
	// Read fills p from off like io.ReaderAt, which may be called concurrently. Its context ends
	// with that of a read or with Close.
	Read func(ctx context.Context, p []byte, off int64) (int, error)
	// Fetch, if it is not nil, does the same for windows, into memory of its own, of which there
	// has to be enough for more than Keep windows. free gives it back; it is not nil if err is.
	Fetch func(ctx context.Context, n int, off int64) (p []byte, free func(), err error)
}

// Reader reads an object. Its methods may be called concurrently.
type Reader struct {
	cfg     Config
	ctx     context.Context // of fetches
	cancel  context.CancelFunc
	fetches sync.WaitGroup
	buffers sync.Pool // of *[]byte

	mu      sync.Mutex
	windows []*window // in the order in which they were made
	ends    []int64   // where the last reads ended
	fronts  []int64   // up to which windows the last reads in order have fetched
	run     int64     // how many windows are fetched ahead
	limited bool      // see Until
	until   int64
	begun   bool
}

// window is a part of the object, which is there once ready is closed.
type window struct {
	number  int64
	ready   chan struct{}
	p       []byte
	free    func() // gives p back; nil where there is nothing to give
	err     error
	left    int64 // bytes that nobody has read yet
	users   int
	dropped bool
}

// New makes a reader. The caller closes it.
func New(cfg Config) *Reader {
	r := &Reader{cfg: cfg, run: 1}
	if cfg.Eager {
		r.run = cfg.Ahead
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.buffers.New = func() any { b := make([]byte, cfg.Window); return &b }
	if cfg.Fetch == nil {
		r.cfg.Fetch = r.read
	}
	return r
}

// read is Fetch where nobody else has memory.
func (r *Reader) read(ctx context.Context, n int, off int64) ([]byte, func(), error) {
	b := r.buffers.Get().(*[]byte)
	n, err := r.cfg.Read(ctx, (*b)[:n], off)
	if err == io.EOF {
		err = nil
	}
	return (*b)[:n], func() { r.buffers.Put(b) }, err
}

// Close ends what is being fetched, and waits for it. No read is under way.
func (r *Reader) Close() {
	r.cancel()
	r.fetches.Wait()
}

// Until says that nothing is worth fetching ahead from end on: there is a hole. It holds until the
// next call. Before the first one there is no bound.
func (r *Reader) Until(end int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limited, r.until = true, end
}

// ReadAt fills p from off, like io.ReaderAt.
func (r *Reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	follows := r.follows(off, off+int64(len(p)))
	for done := 0; done < len(p); {
		at := off + int64(done)
		w := r.get(at/r.cfg.Window, (off+int64(len(p))-1)/r.cfg.Window, follows)
		if w == nil {
			n, err := r.cfg.Read(ctx, p[done:], at)
			return done + n, err
		}
		n, err := w.copy(ctx, p[done:], at%r.cfg.Window)
		r.put(w, int64(n))
		if done += n; err == io.EOF {
			return done, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil { // asked for again, so that the error is that of this range
			n, err := r.cfg.Read(ctx, p[done:], off+int64(done))
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
	if from >= int64(len(w.p)) {
		return 0, io.EOF
	}
	return copy(p, w.p[from:]), nil
}

// follows says whether a read continues an earlier one, or is where something was fetched
// ahead, and remembers its end.
func (r *Reader) follows(off, end int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.ends, off)
	if i >= 0 {
		r.ends = slices.Delete(r.ends, i, i+1)
	}
	if len(r.ends) == readers {
		r.ends = slices.Delete(r.ends, 0, 1)
	}
	r.ends = append(r.ends, end)
	first := !r.begun
	r.begun = true
	return i >= 0 || r.find(off/r.cfg.Window) != nil || first && r.cfg.Eager
}

// get returns a window, which may still be on its way, for a reader that gives it back with
// put. For readers in order all that the read wants, up to the window last, is fetched, and
// what is ahead of it; others get nil where there is nothing.
func (r *Reader) get(number, last int64, follows bool) *window {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.find(number)
	if w == nil && !follows {
		r.run = 1
		return nil
	}
	if w == nil {
		w = r.fetch(number)
	}
	w.users++
	if !follows {
		return w
	}
	end := r.cfg.Size()
	if r.limited {
		end = min(end, r.until)
	}
	// No more than there is room for: what is to be read first must not go for what comes later.
	most := min(last+r.run, number+int64(r.cfg.Keep)-1)
	// What others have fetched before may have been read and dropped by now.
	front, known := r.front(number)
	i := front
	for ; i <= most && (i <= last || i*r.cfg.Window < end); i++ {
		if r.find(i) == nil {
			r.fetch(i)
		}
	}
	if known >= 0 {
		r.fronts = slices.Delete(r.fronts, known, known+1)
	} else if len(r.fronts) == readers {
		r.fronts = slices.Delete(r.fronts, 0, 1)
	}
	r.fronts = append(r.fronts, i)
	r.run = min(2*r.run, r.cfg.Ahead)
	return w
}

// front is the first window that is to be fetched ahead of a reader at window number, and the
// index of where that is known from, -1 if it is the next one. It is called with mu.
func (r *Reader) front(number int64) (front int64, known int) {
	front, known = number+1, -1
	for i, f := range r.fronts {
		if f >= front && f-number <= int64(r.cfg.Keep) {
			front, known = f, i
		}
	}
	return front, known
}

// find is called with mu.
func (r *Reader) find(number int64) *window {
	if i := slices.IndexFunc(r.windows, func(w *window) bool { return w.number == number }); i >= 0 {
		return r.windows[i]
	}
	return nil
}

// fetch begins to fetch a window. It is called with mu.
func (r *Reader) fetch(number int64) *window {
	for len(r.windows) >= r.cfg.Keep {
		r.drop(0)
	}
	n := min(r.cfg.Window, max(0, r.cfg.Size()-number*r.cfg.Window))
	w := &window{number: number, ready: make(chan struct{}), users: 1, left: n}
	r.windows = append(r.windows, w)
	r.fetches.Go(func() {
		w.p, w.free, w.err = r.cfg.Fetch(r.ctx, int(n), number*r.cfg.Window)
		close(w.ready)
		r.put(w, 0)
	})
	return w
}

// drop forgets a window. It is called with mu.
func (r *Reader) drop(i int) {
	w := r.windows[i]
	r.windows = slices.Delete(r.windows, i, i+1)
	w.dropped = true
	r.recycle(w)
}

func (r *Reader) recycle(w *window) {
	if w.dropped && w.users == 0 && w.free != nil {
		w.free()
		w.p, w.free = nil, nil
	}
}

// put ends a use of a window, of which n bytes were read. One that was read wholly, or could
// not be fetched, nobody will want again.
func (r *Reader) put(w *window, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.users--
	w.left -= n
	over := w.left <= 0
	select {
	case <-w.ready:
		over = over || w.err != nil
	default:
	}
	if i := slices.Index(r.windows, w); over && i >= 0 {
		r.drop(i)
		return
	}
	r.recycle(w)
}
