// Package rangelock locks ranges of bytes, shared or exclusively.
package rangelock

import (
	"context"
	"sync"
)

// Mode is how a range is held.
type Mode uint8

// The modes. Shared holders of overlapping ranges coexist.
const (
	Shared Mode = iota
	Exclusive
)

// maxPassed is how many later requests may be granted before one that waits. As in QEMU,
// what waits for one range does not keep others from the rest of its own; unlike there,
// not without an end, so that no request starves.
const maxPassed = 16

// Locker hands out ranges. A request waits for those that are granted, overlap and
// conflict. Among those that wait the order is that in which they were asked for. The
// zero value is ready.
type Locker struct {
	mu          sync.Mutex
	first, last *Held
}

// Held is a range that is held, or waited for.
type Held struct {
	l          *Locker
	prev, next *Held
	off, end   int64
	mode       Mode
	blockers   int           // earlier conflicting entries; 0: granted
	passed     int           // later conflicting entries that were granted before
	ready      chan struct{} // closed when blockers becomes 0; nil if it was 0 at once
}

func (h *Held) conflicts(o *Held) bool {
	return h.off < o.end && o.off < h.end && (h.mode == Exclusive || o.mode == Exclusive)
}

// Lock waits until the n bytes at off can be held in the mode asked for, or
// until ctx ends; then it holds nothing. n must be positive; off+n saturates.
func (l *Locker) Lock(ctx context.Context, off, n int64, mode Mode) (*Held, error) {
	h := &Held{l: l, off: off, end: off + n, mode: mode}
	if h.end < off {
		h.end = 1<<63 - 1
	}
	l.mu.Lock()
	if l.free(h) {
		l.pass(h)
	} else {
		l.queue(h)
	}
	l.mu.Unlock()
	if h.ready == nil {
		return h, nil
	}
	select {
	case <-h.ready:
		return h, nil
	case <-ctx.Done():
		h.Unlock()
		return nil, ctx.Err()
	}
}

// free says whether h conflicts only with requests that wait and may be passed.
func (l *Locker) free(h *Held) bool {
	for e := l.first; e != nil; e = e.next {
		if h.conflicts(e) && (e.blockers == 0 || e.passed == maxPassed) {
			return false
		}
	}
	return true
}

// pass grants h before all that wait.
func (l *Locker) pass(h *Held) {
	for e := l.first; e != nil; e = e.next {
		if h.conflicts(e) {
			e.blockers++
			e.passed++
		}
	}
	if h.next = l.first; h.next != nil {
		h.next.prev = h
	} else {
		l.last = h
	}
	l.first = h
}

// queue puts h behind all others.
func (l *Locker) queue(h *Held) {
	for e := l.first; e != nil; e = e.next {
		if h.conflicts(e) {
			h.blockers++
		}
	}
	h.ready = make(chan struct{})
	if h.prev = l.last; h.prev != nil {
		h.prev.next = h
	} else {
		l.first = h
	}
	l.last = h
}

// Unlock lets the range go. It is called once.
func (h *Held) Unlock() {
	l := h.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := h.next; e != nil; e = e.next {
		if e.conflicts(h) {
			if e.blockers--; e.blockers == 0 {
				close(e.ready)
			}
		}
	}
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		l.first = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		l.last = h.prev
	}
}
