package inet

import (
	"net"
	"testing"
)

// connected returns both ends of a connection over TCP.
func connected(t *testing.T) (b *Bulk, peer net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if peer, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return NewBulk(c), peer
}

// TestBulkStalled wants what comes to be read although the sender sends no more for now.
func TestBulkStalled(t *testing.T) {
	b, peer := connected(t)
	const parts = 20
	b.Begin()
	b.Expect(1 << 40)
	arrived := make(chan byte)
	go func() {
		defer close(arrived)
		var p [10]byte
		for {
			n, err := b.Read(p[:])
			for _, c := range p[:n] {
				arrived <- c
			}
			if err != nil {
				return
			}
		}
	}()
	for i := range byte(parts) {
		// The reader mostly waits already.
		if _, err := peer.Write([]byte{i}); err != nil {
			t.Fatal(err)
		}
		if c := <-arrived; c != i {
			t.Fatal(c, i)
		}
	}
	peer.Close()
	if c, more := <-arrived; more {
		t.Fatal(c)
	}
}

// TestBulkWorth wants no more to be waited for than is to come, and nothing between answers.
func TestBulkWorth(t *testing.T) {
	for name, test := range map[string]struct {
		before, expected, received, want int64
	}{
		"nothing is known": {before: 5},
		"large":            {expected: 1 << 40, want: maxPiece},
		"some has come":    {expected: 2 * maxPiece, received: maxPiece + 1, want: maxPiece / 2},
		"near the end":     {expected: maxPiece, received: maxPiece - minPiece, want: minPiece},
		"at the end":       {expected: maxPiece, received: maxPiece - minPiece + 1},
		"more than told":   {expected: maxPiece, received: maxPiece + 100},
		"no length":        {expected: -1},
		"another answer":   {before: 1 << 20, expected: maxPiece, received: 1, want: maxPiece / 2},
	} {
		t.Run(name, func(t *testing.T) {
			var b Bulk
			b.received.Add(test.before)
			b.Begin()
			b.received.Add(test.received)
			b.Expect(test.expected)
			if got := b.worth(); got != test.want {
				t.Fatal(got)
			}
			b.Begin()
			if got := b.worth(); got != 0 {
				t.Fatal(got, "after it")
			}
		})
	}
}
