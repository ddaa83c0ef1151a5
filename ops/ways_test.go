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
			looked := choose(&w, lookTrials+readTrials+5, 1<<20, c.look, c.read)
			for i, l := range looked {
				want := c.want
				if i < lookTrials+readTrials {
					want = i < 2*lookTrials && i%2 == 0
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
	for range lookTrials + readTrials {
		if w.look() {
			w.looked(1<<20, 800)
		} else {
			w.read(128<<10, 120)
		}
	}
	if !w.look() {
		t.Error("reads, which take 1.2 times as long for each byte, were chosen")
	}
}

// TestWaysWithLateLooks: where nothing can be looked at yet, each span is tried. Looks that
// come about late have as many turns as others.
func TestWaysWithLateLooks(t *testing.T) {
	var w ways
	for i := range 2 * readTrials {
		if !w.look() {
			t.Fatalf("span %d is not tried", i)
		}
		w.notSeen()
		w.read(1<<20, 100)
	}
	always := func(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }
	looked := choose(&w, 2*lookTrials+1, 1<<20, always(time.Second), always(100))
	for i, l := range looked {
		if l != (i < 2*lookTrials && i%2 == 0) {
			t.Fatalf("span %d looked at: %t, all: %v", i, l, looked)
		}
	}
}

// TestWaysAtOnce: many workers that begin together do not all look before it is known what
// that costs, whichever way is known first.
func TestWaysAtOnce(t *testing.T) {
	for _, looksFirst := range []bool{true, false} {
		var w ways
		looks := 0
		for range readTrials {
			if w.look() {
				looks++
			}
		}
		if looks != lookTrials {
			t.Errorf("%d of %d look", looks, readTrials)
		}
		for i := range lookTrials + readTrials {
			if w.look() {
				t.Fatalf("a look is chosen when %d spans are done, looks first: %t", i, looksFirst)
			}
			if looksFirst && i < lookTrials || !looksFirst && i >= readTrials {
				w.looked(1<<20, 100)
			} else {
				w.read(1<<20, 200)
			}
		}
		if !w.look() {
			t.Error("looks, which are faster, are not chosen")
		}
	}
}
