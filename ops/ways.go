package ops

import (
	"sync"
	"time"
)

// wayTrials is how many spans are compared in each way before one is chosen.
const wayTrials = 4

// ways finds out which way to compare a span is faster here: looking at the bytes where
// the system keeps them, or reading them. A look saves a copy and maps pages instead. That
// is cheaper as a rule, and dearer by far in a virtual machine whose page tables the host
// shadows. The zero value is ready; it may be used by several goroutines.
type ways struct {
	mu           sync.Mutex
	looks, reads way
}

// way is one of them: how many spans it was tried with, and the least time that one took,
// in nanoseconds a byte. The others may have waited for a device or for a processor.
type way struct {
	tried int
	best  float64
}

// look tells whether the next span is to be looked at. Both ways take turns until each of
// them was tried often enough. As long as no look has come about, each span is worth one.
func (w *ways) look() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looks.tried < wayTrials || w.reads.tried < wayTrials {
		return w.looks.tried <= w.reads.tried
	}
	return w.looks.best < w.reads.best
}

// looked notes that looking at a span of n bytes took so long.
func (w *ways) looked(n int64, took time.Duration) { w.note(&w.looks, n, took) }

// read notes that reading a span of n bytes took so long.
func (w *ways) read(n int64, took time.Duration) { w.note(&w.reads, n, took) }

func (w *ways) note(way *way, n int64, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cost := float64(took) / float64(n)
	if way.tried == 0 || cost < way.best {
		way.best = cost
	}
	way.tried++
}
