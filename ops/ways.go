package ops

import (
	"sync"
	"time"
)

// lookTrials and readTrials are how many spans are compared in each way before one is
// chosen. The first read of a worker also pays for its buffers, whose pages are new: with
// fewer reads than workers it would be measured alone.
const (
	lookTrials = 4
	readTrials = 32
)

// ways finds out which way to compare a span is faster here: looking at the bytes where
// the system keeps them, or reading them. A look saves a copy and maps pages instead. That
// is cheaper as a rule, and dearer by far in a virtual machine whose page tables the host
// shadows. The zero value is ready; it may be used by several goroutines.
type ways struct {
	mu           sync.Mutex
	looks, reads way
}

// way is one of them: how many spans it was given, how many of them were done, and the
// least time that one took, in nanoseconds a byte. The others may have waited for a device
// or for a processor.
type way struct {
	given, done int
	best        float64
}

// look tells whether the next span is to be looked at; if that cannot be done, notSeen is
// called. Both ways take turns at first. As long as no look can be done, each span is worth
// one.
func (w *ways) look() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	var look bool
	if w.looks.given < lookTrials {
		look = w.looks.given <= w.reads.given
	} else {
		look = w.looks.done >= lookTrials && w.reads.done >= readTrials && w.looks.best < w.reads.best
	}
	if look {
		w.looks.given++
	} else {
		w.reads.given++
	}
	return look
}

// notSeen takes back what look gave.
func (w *ways) notSeen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks.given--
}

// looked notes that looking at a span of n bytes took so long.
func (w *ways) looked(n int64, took time.Duration) { w.note(&w.looks, n, took) }

// read notes that reading a span of n bytes took so long.
func (w *ways) read(n int64, took time.Duration) { w.note(&w.reads, n, took) }

func (w *ways) note(way *way, n int64, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cost := float64(took) / float64(n)
	if way.done == 0 || cost < way.best {
		way.best = cost
	}
	way.done++
}
