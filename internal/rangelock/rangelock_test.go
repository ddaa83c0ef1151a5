package rangelock

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// blocked reports whether the range cannot be had at once. A cancelled context
// makes Lock answer without waiting (unless it was granted before it looked).
func blocked(l *Locker, off, n int64, mode Mode) bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h, err := l.Lock(ctx, off, n, mode)
	if err != nil {
		return true
	}
	h.Unlock()
	return false
}

func TestConflicts(t *testing.T) {
	var l Locker
	ctx := context.Background()
	ex, err := l.Lock(ctx, 100, 100, Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	sh, err := l.Lock(ctx, 300, 100, Shared)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		off, n int64
		mode   Mode
		want   bool
	}{
		{0, 100, Exclusive, false}, {0, 101, Shared, true}, {199, 1, Shared, true}, {200, 100, Exclusive, false},
		{300, 1, Shared, false}, {300, 1, Exclusive, true}, {399, math.MaxInt64, Exclusive, true}, {400, math.MaxInt64, Exclusive, false},
	} {
		if got := blocked(&l, c.off, c.n, c.mode); got != c.want {
			t.Errorf("%d+%d mode %d: blocked %v, want %v", c.off, c.n, c.mode, got, c.want)
		}
	}
	ex.Unlock()
	sh.Unlock()
	if blocked(&l, 0, math.MaxInt64, Exclusive) {
		t.Error("something is still held")
	}
}

// queued waits until n requests are in the list, held or waited for.
func queued(l *Locker, n int) {
	for {
		l.mu.Lock()
		have := 0
		for e := l.first; e != nil; e = e.next {
			have++
		}
		l.mu.Unlock()
		if have == n {
			return
		}
		runtime.Gosched()
	}
}

// TestPassing: a request that waits for one range is passed by those that want another
// part of its own, but not more than a number of times.
func TestPassing(t *testing.T) {
	var l Locker
	ctx := context.Background()
	a, _ := l.Lock(ctx, 0, 10, Exclusive)
	got := make(chan *Held)
	go func() {
		h, err := l.Lock(ctx, 5, 15, Exclusive)
		if err != nil {
			t.Error(err)
		}
		got <- h
	}()
	queued(&l, 2)
	var last *Held
	for i := range maxPassed {
		if !blocked(&l, 5, 1, Shared) {
			t.Fatal("a range that is held was given")
		}
		if last != nil {
			last.Unlock()
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		var err error
		if last, err = l.Lock(gone, 15, 10, Exclusive); err != nil {
			t.Fatalf("request %d waits behind one that waits itself", i)
		}
	}
	a.Unlock()
	select {
	case <-got:
		t.Fatal("granted beside one that passed it")
	default:
	}
	last.Unlock()
	h := <-got
	if h.passed != maxPassed || !blocked(&l, 15, 1, Shared) {
		t.Errorf("passed %d times", h.passed)
	}
	h.Unlock()
	queued(&l, 0)
}

// TestPassedOftenEnough: then the next one waits.
func TestPassedOftenEnough(t *testing.T) {
	var l Locker
	a, _ := l.Lock(context.Background(), 0, 10, Exclusive)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := l.Lock(ctx, 5, 15, Exclusive)
		done <- err
	}()
	queued(&l, 2)
	for range maxPassed {
		if blocked(&l, 15, 10, Exclusive) {
			t.Fatal("not passed")
		}
	}
	if !blocked(&l, 15, 10, Exclusive) {
		t.Error("passed without an end")
	}
	cancel()
	<-done
	a.Unlock()
	queued(&l, 0)
}

func TestWaiterIsGrantedInOrder(t *testing.T) {
	var l Locker
	ctx := context.Background()
	a, _ := l.Lock(ctx, 0, 10, Shared)
	got := make(chan *Held)
	go func() {
		h, err := l.Lock(ctx, 0, 10, Exclusive)
		if err != nil {
			t.Error(err)
		}
		got <- h
	}()
	for !blocked(&l, 0, 10, Shared) {
		// Until the writer is queued, and has been passed as often as it may.
	}
	a.Unlock()
	h := <-got
	if !blocked(&l, 0, 10, Shared) {
		t.Error("a reader entered beside the writer")
	}
	h.Unlock()
	if blocked(&l, 0, 10, Exclusive) {
		t.Error("still held")
	}
}

func TestCancelLetsLaterOnesPass(t *testing.T) {
	var l Locker
	a, _ := l.Lock(context.Background(), 0, 10, Shared)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := l.Lock(ctx, 0, 10, Exclusive)
		done <- err
	}()
	for !blocked(&l, 0, 10, Shared) {
	}
	got := make(chan *Held)
	go func() {
		h, _ := l.Lock(context.Background(), 5, 10, Shared) // waits behind the writer
		got <- h
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	(<-got).Unlock()
	a.Unlock()
}

func TestExclusionUnderLoad(t *testing.T) {
	var l Locker
	var cells [64]int // guarded by the lock: the race detector sees failures
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(g, 1))
			for range 500 {
				off, n := r.IntN(60), 1+r.IntN(4)
				if r.IntN(2) == 0 {
					h, _ := l.Lock(context.Background(), int64(off), int64(n), Exclusive)
					for i := range n {
						cells[off+i]++
					}
					h.Unlock()
				} else {
					h, _ := l.Lock(context.Background(), int64(off), int64(n), Shared)
					sum := 0
					for i := range n {
						sum += cells[off+i]
					}
					_ = sum
					h.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if blocked(&l, 0, 64, Exclusive) {
		t.Error("still held")
	}
}
