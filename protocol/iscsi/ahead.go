package iscsi

import (
	"context"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/iscsi"
)

const (
	// farAway is from which round trip on a disk that is read in order is read ahead.
	farAway = 2 * time.Millisecond
	// depth is how many pieces are read ahead.
	depth = 64
)

// ahead reads a disk ahead that is read once, in order, where the target is far away.
type ahead struct {
	n    *node
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

func newAhead(n *node) *ahead {
	a := &ahead{n: n, fetches: map[int64]*fetch{}}
	a.life, a.end = context.WithCancel(context.Background())
	return a
}

// sawData notes what Map found.
func (a *ahead) sawData(end int64) {
	if a == nil {
		return
	}
	a.mu.Lock()
	a.dataEnd = end
	a.mu.Unlock()
}

// get returns the fetch of a piece, and begins it if need be. It is called with mu.
func (a *ahead) get(i int64) *fetch {
	f := a.fetches[i]
	if f != nil {
		return f
	}
	size := min(piece, a.n.Size()-i*piece)
	f = &fetch{done: make(chan struct{}), left: int(size)}
	a.fetches[i] = f
	go func() {
		defer close(f.done)
		p := make([]byte, size)
		f.err = a.n.pieces(p, i*piece, func(p []byte, t iscsi.Transfer) error { return a.n.lun.Read(a.life, p, t) })
		f.data = p
	}()
	return f
}

// read fills p from off, and reads on behind it.
func (a *ahead) read(ctx context.Context, p []byte, off int64) error {
	first, last := off/piece, (off+int64(len(p))-1)/piece
	a.mu.Lock()
	if first > a.begun || first < a.begun-2*depth { // it is read elsewhere now
		clear(a.fetches)
		a.begun = first
	}
	wanted := make([]*fetch, 0, last-first+1)
	for i := first; i <= last; i++ {
		wanted = append(wanted, a.get(i))
	}
	a.begun = max(a.begun, last+1)
	for a.begun <= last+depth && a.begun*piece < min(a.dataEnd, a.n.Size()) {
		a.get(a.begun)
		a.begun++
	}
	if len(a.fetches) > 4*depth { // pieces that nobody fetches
		for i := range a.fetches {
			if i < first-depth || i > last+depth {
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
			return ctx.Err()
		}
		if f.err != nil {
			return f.err
		}
		from, to := max(off, i*piece), min(off+int64(len(p)), i*piece+int64(len(f.data)))
		copy(p[from-off:to-off], f.data[from-i*piece:])
		a.mu.Lock()
		if f.left -= int(to - from); f.left <= 0 && a.fetches[i] == f {
			delete(a.fetches, i)
		}
		a.mu.Unlock()
	}
	return nil
}
