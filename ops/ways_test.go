package ops

import (
	"testing"
	"time"
)

// choose compares spans of n bytes with looks and reads that take what the functions say,
// and returns which of the spans were looked at.
func choose(w *ways, spans int, n int64, look, read func(i int) time.Duration) (looked []bool) {
	for i := range spans {
		l := w.look()
		if l {
			w.looked(n, look(i))
		} else {
			w.read(n, read(i))
		}
		looked = append(looked, l)
	}
	return looked
}

func TestWays(t *testing.T) {
	always := func(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }
	// One span in three is as fast as can be; the others wait for something.
	disturbed := func(d time.Duration) func(int) time.Duration {
		return func(i int) time.Duration {
			if i/2%3 == 1 {
				return d
			}
			return d + time.Second
		}
	}
	for name, c := range map[string]struct {
		look, read func(int) time.Duration
		want       bool
	}{
		"looks are faster":                       {always(100), always(120), true},
		"reads are faster":                       {always(500), always(120), false},
		"looks are faster, on a busy machine":    {disturbed(100), disturbed(120), true},
		"reads are faster, on a busy machine":    {disturbed(130), disturbed(120), false},
		"only looks are disturbed, and faster":   {disturbed(100), always(120), true},
		"only reads are disturbed, and faster":   {always(130), disturbed(120), false},
		"as fast as each other: no pages to map": {always(120), always(120), false},
	} {
		t.Run(name, func(t *testing.T) {
			var w ways
			looked := choose(&w, 2*wayTrials+5, 1<<20, c.look, c.read)
			for i, l := range looked {
				want := c.want
				if i < 2*wayTrials {
					want = i%2 == 0
				}
				if l != want {
					t.Fatalf("span %d looked at: %t, all: %v", i, l, looked)
				}
			}
		})
	}
}

// TestWaysOfDifferentLengths: what counts is the time of a byte.
func TestWaysOfDifferentLengths(t *testing.T) {
	var w ways
	for range wayTrials {
		w.looked(1<<20, 800)
		w.read(128<<10, 120)
	}
	if !w.look() {
		t.Error("reads, which take 1.2 times as long for each byte, were chosen")
	}
}

// TestWaysWithoutLooks: where nothing can be looked at yet, each span is tried.
func TestWaysWithoutLooks(t *testing.T) {
	var w ways
	for i := range 3 * wayTrials {
		if !w.look() {
			t.Fatalf("span %d is not tried", i)
		}
		w.read(1<<20, 100)
	}
}

// TestWaysWithLateLooks: looks that come about late are tried as often as others.
func TestWaysWithLateLooks(t *testing.T) {
	var w ways
	for range 2 * wayTrials {
		w.read(1<<20, 100)
	}
	for i := range wayTrials {
		if !w.look() {
			t.Fatalf("look %d is not tried", i)
		}
		w.looked(1<<20, time.Second)
	}
	if w.look() {
		t.Error("looks were chosen, which took longer")
	}
}
