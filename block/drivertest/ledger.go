package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/cowl-disk/cowl/block"
)

// ledger is a model for disks whose requests may fail. It knows of every byte
// what it should be, whether a failure leaves that open, and what was promised
// to be durable.
type ledger struct {
	want, durable []byte
	unsure        []bool // a request for this byte has failed, or left it open
	touched       []bool // changed, or tried to, since it was made durable
	initial       []byte // what reset goes back to
	got           []byte // what read has read
	// pending are the ranges touched since the last flush, and changes those since reset.
	pending, changes spans
}

// spans are ranges [off, end) that do not overlap.
type spans []span

type span struct{ off, end int64 }

func (s *spans) add(n span) {
	rest := (*s)[:0]
	for _, o := range *s {
		if o.end < n.off || n.end < o.off {
			rest = append(rest, o)
			continue
		}
		n = span{min(o.off, n.off), max(o.end, n.end)}
	}
	*s = append(rest, n)
}

// newLedger makes the ledger of a disk that holds initial, which is durable.
func newLedger(initial []byte) *ledger {
	size := len(initial)
	return &ledger{want: bytes.Clone(initial), durable: bytes.Clone(initial), unsure: make([]bool, size), touched: make([]bool, size),
		initial: initial, got: make([]byte, size)}
}

// reset makes the ledger as it was when it was new.
func (l *ledger) reset() {
	for _, s := range l.changes {
		copy(l.want[s.off:s.end], l.initial[s.off:s.end])
		copy(l.durable[s.off:s.end], l.initial[s.off:s.end])
		clear(l.unsure[s.off:s.end])
		clear(l.touched[s.off:s.end])
	}
	l.pending, l.changes = l.pending[:0], l.changes[:0]
}

// changed notes a request that made the range p, or failed to.
func (l *ledger) changed(p []byte, off int64, err error) {
	copy(l.want[off:off+int64(len(p))], p)
	l.mark(off, int64(len(p)), err != nil)
}

// zeroed notes a request that made n bytes zero, or failed to.
func (l *ledger) zeroed(off, n int64, err error) {
	clear(l.want[off : off+n])
	l.mark(off, n, err != nil)
}

// mark notes that a range was touched, and whether it may be anything now.
func (l *ledger) mark(off, n int64, unsure bool) {
	set(l.touched[off:off+n], true)
	set(l.unsure[off:off+n], unsure)
	l.pending.add(span{off, off + n})
	l.changes.add(span{off, off + n})
}

// set fills flags with v, by the piece: the race detector looks at every single
// access.
func set(flags []bool, v bool) {
	var piece [4096]bool
	if v {
		for i := range min(len(piece), len(flags)) {
			piece[i] = true
		}
	}
	for len(flags) > 0 {
		flags = flags[copy(flags, piece[:]):]
	}
}

// discarded notes that a range may be anything now.
func (l *ledger) discarded(off, n int64) { l.mark(off, n, true) }

// flushed notes a successful flush.
func (l *ledger) flushed() {
	for _, s := range l.pending {
		copy(l.durable[s.off:s.end], l.want[s.off:s.end])
		copy(l.touched[s.off:s.end], l.unsure[s.off:s.end])
	}
	l.pending = l.pending[:0]
}

// read reads the disk; err is a real failure, of reading or of content. With
// durable set it compares with what was promised, else with what should be.
func (l *ledger) read(img *block.Image, durable bool) error {
	want, open := l.want, l.unsure
	if durable {
		want, open = l.durable, l.touched
	}
	p := l.got
	repeat(p, []byte{0xa5}) // what a driver leaves out is seen
	if n, err := img.ReadAt(context.Background(), p, 0); n != len(p) || err != nil && err != io.EOF {
		return fmt.Errorf("read %d of %d: %w", n, len(p), err)
	}
	for from := 0; from < len(p); from += 4096 {
		to := min(from+4096, len(p))
		if bytes.Equal(p[from:to], want[from:to]) {
			continue
		}
		for i := from; i < to; i++ {
			if p[i] != want[i] && !open[i] {
				return fmt.Errorf("%w: byte %d is %#x, want %#x", errWrongContent, i, p[i], want[i])
			}
		}
	}
	return nil
}

// repeat fills p with copies of pattern.
func repeat(p, pattern []byte) {
	for n := copy(p, pattern); n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}
