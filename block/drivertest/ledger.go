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
}

func newLedger(size int64) *ledger {
	return &ledger{make([]byte, size), make([]byte, size), make([]bool, size), make([]bool, size)}
}

// changed notes a request that made the range p, or failed to.
func (l *ledger) changed(p []byte, off int64, err error) {
	end := off + int64(len(p))
	copy(l.want[off:end], p)
	set(l.touched[off:end], true)
	set(l.unsure[off:end], err != nil)
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
func (l *ledger) discarded(off, n int64) {
	set(l.touched[off:off+n], true)
	set(l.unsure[off:off+n], true)
}

// flushed notes a successful flush.
func (l *ledger) flushed() {
	copy(l.durable, l.want)
	copy(l.touched, l.unsure)
}

// read reads the disk; err is a real failure, of reading or of content. With
// durable set it compares with what was promised, else with what should be.
func (l *ledger) read(img *block.Image, durable bool) error {
	want, open := l.want, l.unsure
	if durable {
		want, open = l.durable, l.touched
	}
	p := make([]byte, len(want))
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
