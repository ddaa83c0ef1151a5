package clustertable

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

func TestConflict(t *testing.T) {
	l := NewChanges(&sync.RWMutex{})
	a, b := &Change{First: 10, End: 20}, &Change{First: 30, End: 31}
	l.Add(a)
	l.Add(b)
	for _, c := range []struct {
		first, end int64
		want       *Change
	}{{0, 10, nil}, {0, 11, a}, {19, 20, a}, {20, 30, nil}, {20, 31, b}, {30, 31, b}, {31, 99, nil}, {12, 13, a}} {
		if got := l.Conflict(c.first, c.end); got != c.want {
			t.Errorf("[%d, %d) is in conflict with %v, want %v", c.first, c.end, got, c.want)
		}
	}
	a.End = 15
	if l.Conflict(15, 20) != nil {
		t.Error("the end that was lowered counts")
	}
	l.Remove(a)
	if l.Conflict(0, 20) != nil || l.Conflict(0, 40) != b {
		t.Error("Remove took another change")
	}
}

// TestReserve lets many goroutines change overlapping ranges: never two at once.
func TestReserve(t *testing.T) {
	l := NewChanges(&sync.RWMutex{})
	var busy [8]int // guarded by the reservations: -race tells if they do not
	var wg sync.WaitGroup
	for g := range int64(6) {
		wg.Go(func() {
			for i := range int64(300) {
				first := (g*7 + i*3) % 7
				end := min(8, first+1+i%3)
				c, err := l.Reserve(context.Background(), first, end)
				if err != nil {
					t.Error(err)
					return
				}
				for u := first; u < end; u++ {
					if busy[u]++; busy[u] != 1 {
						t.Errorf("unit %d is changed twice at once", u)
					}
				}
				for u := first; u < end; u++ {
					busy[u]--
				}
				l.Remove(c)
			}
		})
	}
	wg.Wait()
	if len(l.list) != 0 {
		t.Errorf("%d changes are left", len(l.list))
	}
}

func TestWait(t *testing.T) { synctest.Test(t, testWait) }

func testWait(t *testing.T) {
	l := NewChanges(&sync.RWMutex{})
	if err := l.Wait(context.Background(), 5); err != nil {
		t.Fatal(err)
	}
	c, err := l.Reserve(context.Background(), 5, 6)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Wait(ctx, 5); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with a context that has ended: %v", err)
	}
	if _, err := l.Reserve(ctx, 0, 9); !errors.Is(err, context.Canceled) {
		t.Errorf("Reserve with a context that has ended: %v", err)
	}
	done := make(chan error)
	go func() { done <- l.Wait(context.Background(), 5) }()
	synctest.Wait()
	select {
	case <-done:
		t.Fatal("Wait did not wait")
	default:
	}
	l.Remove(c)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
