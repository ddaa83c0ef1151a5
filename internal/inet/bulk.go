package inet

import (
	"errors"
	"math/bits"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	// maxPiece is how many bytes a Bulk waits for, if so many are to come, minPiece what is not worth
	// waiting for, and bulkPatience how long it waits at most.
	maxPiece     = 128 << 10
	minPiece     = 8 << 10
	bulkPatience = 20 * time.Millisecond
)

// Bulk is a connection over which large answers come. While it knows that many bytes are to come, Read
// waits until there is a large piece, or a short time: a sender that writes often would
// wake the reader as often, for a few KiB each. Where the system has no means for that, it is
// the connection alone.
//
// Read is not for several goroutines at once, and nobody else sets deadlines of reading.
type Bulk struct {
	net.Conn
	received atomic.Int64 // since Begin
	expected atomic.Int64 // of received, in the end
	piece    int64        // what the system wakes the reader for; 0: every byte
}

// NewBulk makes a Bulk of a connection.
func NewBulk(c net.Conn) *Bulk { return &Bulk{Conn: c} }

// Begin begins to count what is received. It is called before a request is sent.
func (b *Bulk) Begin() {
	b.expected.Store(0)
	b.received.Store(0)
}

// Expect tells that n bytes or more are to come since Begin. It and Begin may be called while Read waits
// for a first byte.
func (b *Bulk) Expect(n int64) { b.expected.Store(n) }

// Read implements net.Conn.
func (b *Bulk) Read(p []byte) (int, error) {
	b.wakeFor(b.worth())
	if b.piece > 0 {
		_ = b.Conn.SetReadDeadline(time.Now().Add(bulkPatience))
	}
	n, err := b.Conn.Read(p)
	if n == 0 && b.piece > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		b.wakeFor(0)
		n, err = b.Conn.Read(p)
	}
	b.received.Add(int64(n))
	return n, err
}

// worth is how many bytes are worth waiting for: no more than are to come.
func (b *Bulk) worth() int64 {
	left := b.expected.Load() - b.received.Load()
	if left < minPiece {
		return 0
	}
	return min(maxPiece, int64(1)<<(bits.Len64(uint64(left))-1))
}

// wakeFor sets what the system wakes the reader for, if that is to change.
func (b *Bulk) wakeFor(n int64) {
	if n == b.piece {
		return
	}
	if setLowWater(b.Conn, max(int(n), 1)) != nil {
		b.Begin() // nothing is waited for
		return
	}
	if b.piece = n; n == 0 {
		_ = b.Conn.SetReadDeadline(time.Time{})
	}
}
