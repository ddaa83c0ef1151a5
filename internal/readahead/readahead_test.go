package readahead_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/internal/readahead"
)

const window = 1024

// object is what is read.
type object struct {
	data  []byte
	reads atomic.Int64 // so far
	bytes atomic.Int64
	fail  atomic.Bool
	hold  chan struct{} // not nil: reads wait until it is closed, or for their context
}

var errBroken = errors.New("broken")

func (o *object) read(ctx context.Context, p []byte, off int64) (int, error) {
	o.reads.Add(1)
	o.bytes.Add(int64(len(p)))
	if o.hold != nil {
		select {
		case <-o.hold:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if o.fail.Load() {
		return 0, errBroken
	}
	return bytes.NewReader(o.data).ReadAt(p, off)
}

func newObject(size int) *object {
	o := &object{data: make([]byte, size)}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range o.data {
		o.data[i] = byte(r.Uint32())
	}
	return o
}

func (o *object) config() readahead.Config {
	return readahead.Config{Window: window, Ahead: 8, Keep: 16, Size: func() int64 { return int64(len(o.data)) }, Read: o.read}
}

func (o *object) check(t *testing.T, r *readahead.Reader, off int64, n int) {
	t.Helper()
	p := make([]byte, n)
	got, err := r.ReadAt(t.Context(), p, off)
	want := o.data[min(off, int64(len(o.data))):min(off+int64(n), int64(len(o.data)))]
	if err != nil && (err != io.EOF || len(want) == n) || !bytes.Equal(p[:got], want) {
		t.Fatalf("%d bytes at %d: %d, %v", n, off, got, err)
	}
}

// TestInOrder: each byte is fetched once, in windows.
func TestInOrder(t *testing.T) {
	for _, step := range []int{100, 512, window, 3000, 40 * window} {
		o := newObject(50*window + 17)
		r := readahead.New(o.config())
		for off := 0; off < len(o.data); off += step {
			o.check(t, r, int64(off), step)
		}
		r.Close()
		// The first read is not known to be one in order, so that it is fetched twice at most.
		if n := o.bytes.Load(); n > int64(len(o.data)+max(step, window)) {
			t.Errorf("steps of %d: %d bytes were fetched of %d", step, n, len(o.data))
		}
	}
}

// TestAhead: what follows is under way before it is asked for, to a bound.
func TestAhead(t *testing.T) {
	for _, eager := range []bool{false, true} {
		for _, until := range []int64{0, 4*window + 1} {
			o := newObject(100 * window)
			o.hold = make(chan struct{})
			cfg := o.config()
			cfg.Eager = eager
			r := readahead.New(cfg)
			if until > 0 {
				r.Until(until)
			}
			var wg sync.WaitGroup
			if !eager {
				wg.Go(func() { o.check(t, r, 0, window) })
				for o.reads.Load() < 1 {
					runtime.Gosched()
				}
				wg.Go(func() { o.check(t, r, window, window) })
				for o.reads.Load() < 3 { // the second one and one ahead
					runtime.Gosched()
				}
			} else {
				want := int64(1 + 8)
				if until > 0 {
					want = 5
				}
				wg.Go(func() { o.check(t, r, 0, window) })
				for o.reads.Load() < want {
					runtime.Gosched()
				}
			}
			close(o.hold)
			wg.Wait()
			for off := int64(2 * window); off < 4*window; off += window {
				o.check(t, r, off, window)
			}
			r.Close()
			if most := int64(4 + 1 + 8); until == 0 && o.reads.Load() > most || until > 0 && o.reads.Load() > 6 {
				t.Errorf("eager %v, until %d: %d fetches", eager, until, o.reads.Load())
			}
		}
	}
}

// TestAnywhere: reads in no order fetch nothing else.
func TestAnywhere(t *testing.T) {
	o := newObject(1000 * window)
	r := readahead.New(o.config())
	x := rand.New(rand.NewPCG(2, 2))
	total := 0
	for range 300 {
		n := 1 + x.IntN(100)
		total += n
		o.check(t, r, x.Int64N(1000*window/8)*8+3, n)
	}
	r.Close()
	if n := o.bytes.Load(); n > int64(total)+20*window {
		t.Errorf("%d bytes were fetched, of %d", n, total)
	}
}

// TestTogether reads in order from several goroutines, each the next part.
func TestTogether(t *testing.T) {
	o := newObject(500*window + 5)
	cfg := o.config()
	cfg.Eager = true
	r := readahead.New(cfg)
	next := make(chan int64)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			p := make([]byte, 1500)
			for off := range next {
				n, err := r.ReadAt(t.Context(), p, off)
				if err != nil && err != io.EOF || !bytes.Equal(p[:n], o.data[off:min(off+1500, int64(len(o.data)))]) {
					t.Errorf("at %d: %v", off, err)
				}
			}
		})
	}
	for off := int64(0); off < int64(len(o.data)); off += 1500 {
		next <- off
	}
	close(next)
	wg.Wait()
	r.Close()
}

// TestErrors: an error is that of the range that was read, and what failed is fetched again.
func TestErrors(t *testing.T) {
	o := newObject(20 * window)
	r := readahead.New(o.config())
	o.check(t, r, 0, window)
	o.fail.Store(true)
	if _, err := r.ReadAt(t.Context(), make([]byte, window), window); !errors.Is(err, errBroken) {
		t.Error(err)
	}
	o.fail.Store(false)
	for off := int64(window); off < 20*window; off += window {
		o.check(t, r, off, window)
	}
	r.Close()
	// A read ends with its context, and Close ends what is under way.
	o.hold = make(chan struct{})
	r = readahead.New(func() readahead.Config { c := o.config(); c.Eager = true; return c }())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.ReadAt(ctx, make([]byte, window), 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	r.Close()
}
