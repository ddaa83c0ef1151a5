package inet

import (
	"io"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func lowWater(t *testing.T, b *Bulk) (n int) {
	t.Helper()
	raw, err := b.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return n
}

// TestBulkWakes wants the system to wake for large pieces while such come, and for each byte afterwards.
func TestBulkWakes(t *testing.T) {
	b, peer := connected(t)
	const size = 2 * maxPiece
	sent := make(chan error, 1)
	go func() {
		_, err := peer.Write(make([]byte, size+1))
		sent <- err
	}()
	b.Begin()
	b.Expect(size)
	if b.wakeFor(b.worth()); lowWater(t, b) != maxPiece {
		t.Fatal(lowWater(t, b))
	}
	if _, err := io.ReadFull(b, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := lowWater(t, b); n != 1 || b.piece != 0 {
		t.Fatal(n, b.piece)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}
