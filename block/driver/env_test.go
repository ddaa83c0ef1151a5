package driver

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// TestGuardOrder enters, exits and defers at random, one step at a time: a
// deferred function runs once exactly the requests that were under way have
// exited, and not later than that.
func TestGuardOrder(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var g Guard
		type request struct{ token uint64 }
		type deferred struct {
			waits map[*request]bool
			ran   bool
		}
		active := map[*request]bool{}
		var list []*deferred
		check := func(step int) {
			for i, d := range list {
				free := true
				for q := range d.waits {
					if active[q] {
						free = false
					}
				}
				if d.ran && !free {
					t.Fatalf("seed %d step %d: function %d ran while an older request was under way", seed, step, i)
				}
				if !d.ran && len(active) == 0 {
					t.Fatalf("seed %d step %d: function %d did not run though nothing is under way", seed, step, i)
				}
			}
		}
		for step := range 200 {
			switch k := r.IntN(5); {
			case k < 2:
				active[&request{g.Enter()}] = true
			case k < 4:
				for q := range active {
					delete(active, q)
					g.Exit(q.token)
					break
				}
			default:
				d := &deferred{waits: map[*request]bool{}}
				for q := range active {
					d.waits[q] = true
				}
				list = append(list, d)
				g.Defer(func() { d.ran = true })
			}
			check(step)
		}
		for q := range active {
			delete(active, q)
			g.Exit(q.token)
		}
		check(200)
	}
}

// TestGuardConcurrent lets readers use cells that a writer frees behind the
// guard: nobody sees a freed cell.
func TestGuardConcurrent(t *testing.T) {
	var g Guard
	type cell struct{ freed atomic.Bool }
	var current atomic.Pointer[cell]
	current.Store(&cell{})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				e := g.Enter()
				c := current.Load()
				for range 10 {
					if c.freed.Load() {
						t.Error("a cell was freed under a reader")
						stop.Store(true)
					}
				}
				g.Exit(e)
			}
		})
	}
	var freed atomic.Int64
	for range 20_000 {
		old := current.Swap(&cell{})
		g.Defer(func() { old.freed.Store(true); freed.Add(1) })
	}
	stop.Store(true)
	wg.Wait()
	if freed.Load() != 20_000 {
		t.Errorf("%d of 20000 cells were freed", freed.Load())
	}
}

func TestBudget(t *testing.T) {
	b := &Budget{MaxNodes: 2, MaxTableBytes: 100, MaxMemory: 150, MaxDescriptor: 10}
	for _, c := range []struct {
		name string
		call func() error
		ok   bool
	}{
		{"first node", b.AddNode, true},
		{"second node", b.AddNode, true},
		{"third node", b.AddNode, false},
		{"table", func() error { return b.Table("t", 100) }, true},
		{"table too large", func() error { return b.Table("t", 101) }, false},
		{"negative table", func() error { return b.Table("t", -1) }, false},
		{"too much together", func() error { return b.Table("t", 60) }, false},
		{"what is left", func() error { return b.Table("t", 50) }, true},
		{"after release", func() error { b.Release(100); return b.Table("t", 100) }, true},
		{"descriptor", func() error { return b.Descriptor("d", 10) }, true},
		{"descriptor too large", func() error { return b.Descriptor("d", 11) }, false},
	} {
		err := c.call()
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrBudget) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	b.RemoveNode()
	if err := b.AddNode(); err != nil {
		t.Errorf("a node that was removed still counts: %v", err)
	}
}

func TestErrorf(t *testing.T) {
	err := Errorf(ErrCorrupt, "table at %d: %w", 7, fs.ErrNotExist)
	if err.Error() != "table at 7: file does not exist" || !errors.Is(err, ErrCorrupt) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
