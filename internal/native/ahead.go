package native

import (
	"context"
	"sync"
)

const (
	// aheadPiece is how much is read at a time, in bytes, and aheadDepth how many pieces are
	// read ahead.
	aheadPiece = 1 << 20
	aheadDepth = 16
)

// ahead reads a disk ahead that is read once, in order. It is for disks that nobody writes
// here.
type ahead struct {
	d    *Disk
	life context.Context
	end  context.CancelFunc

	mu      sync.Mutex
	fetches map[int64]*fetch // by the number of the piece
	begun   int64            // all pieces before were read, or are being read
	dataEnd int64            // what Map last called data ends here
}

// fetch is a piece that is read.
type fetch struct {
	done chan struct{}
	data []byte
	err  error
	left int // bytes that were not yet given out
}

func newAhead(d *Disk) *ahead {
	a := &ahead{d: d, fetches: map[int64]*fetch{}}
	a.life, a.end = context.WithCancel(context.Background())
	return a
}

func (a *ahead) close() { a.end() }

// saw notes that there is data up to an offset.
func (a *ahead) saw(end int64) {
	if a == nil {
		return
	}
	a.mu.Lock()
	a.dataEnd = end
	a.mu.Unlock()
}

// get returns the fetch of a piece, and begins it if need be. It is called with mu.
func (a *ahead) get(i int64) *fetch {
	if f := a.fetches[i]; f != nil {
		return f
	}
	size := min(aheadPiece, a.d.Size()-i*aheadPiece)
	f := &fetch{done: make(chan struct{}), left: int(size)}
	a.fetches[i] = f
	go func() {
		defer close(f.done)
		f.data = make([]byte, size)
		f.err = a.d.read(a.life, f.data, i*aheadPiece)
	}()
	return f
}

// read fills p from off, and reads on behind it.
func (a *ahead) read(ctx context.Context, p []byte, off int64) error {
	first, last := off/aheadPiece, (off+int64(len(p))-1)/aheadPiece
	a.mu.Lock()
	if first > a.begun || first < a.begun-2*aheadDepth { // it is read elsewhere now
		clear(a.fetches)
		a.begun = first
	}
	wanted := make([]*fetch, 0, last-first+1)
	for i := first; i <= last; i++ {
		wanted = append(wanted, a.get(i))
	}
	a.begun = max(a.begun, last+1)
	for a.begun <= last+aheadDepth && a.begun*aheadPiece < min(a.dataEnd, a.d.Size()) {
		a.get(a.begun)
		a.begun++
	}
	if len(a.fetches) > 2*aheadDepth { // pieces that nobody wants
		for i := range a.fetches {
			if i < first-aheadDepth || i > last+aheadDepth {
				delete(a.fetches, i)
			}
		}
	}
	a.mu.Unlock()
	for k, f := range wanted {
		i := first + int64(k)
		select {
		case <-f.done:
		case <-ctx.Done():
			a.d.p.hurry.Store(true)
			return ctx.Err()
		}
		if f.err != nil {
			a.forget(i, f)
			return f.err
		}
		from, to := max(off, i*aheadPiece), min(off+int64(len(p)), i*aheadPiece+int64(len(f.data)))
		copy(p[from-off:to-off], f.data[from-i*aheadPiece:])
		a.mu.Lock()
		f.left -= int(to - from)
		used := f.left <= 0
		a.mu.Unlock()
		if used {
			a.forget(i, f)
		}
	}
	return nil
}

// forget drops a piece: it is used up, or another try may do better.
func (a *ahead) forget(i int64, f *fetch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fetches[i] == f {
		delete(a.fetches, i)
	}
}
