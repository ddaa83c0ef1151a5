package ssh

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// crowded is a file in memory. A write waits for a moment for another one beside those that may be under way.
type crowded struct {
	room int

	mu          sync.Mutex
	data        []byte
	under, most int
	largest     int
	fails       int64 // offset of the writes that fail; 0: none
	full        chan struct{}
}

func (c *crowded) Filewrite(*sftp.Request) (io.WriterAt, error) { return c, nil }

func (c *crowded) WriteAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	c.under++
	if c.most = max(c.most, c.under); c.under > c.room {
		select {
		case <-c.full:
		default:
			close(c.full)
		}
	}
	c.largest = max(c.largest, len(p))
	c.mu.Unlock()
	select {
	case <-c.full:
	case <-time.After(20 * time.Millisecond): // what comes later is not counted, and nothing fails then
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.under--
	if c.fails != 0 && off >= c.fails {
		return 0, sftp.ErrSSHFxFailure
	}
	return copy(c.data[off:], p), nil
}

// TestPieces: of a write to a server that is near, few pieces are under way, and all arrive; a piece that fails is an
// error of the write.
func TestPieces(t *testing.T) {
	want := make([]byte, 9*pieceSize+1234)
	testkit.Fill(testkit.Rand(1), want)
	for _, x := range []struct {
		trip  time.Duration
		room  int // 0: no pieces
		fails int64
	}{
		{0, perTrip, 0}, {900 * time.Microsecond, perTrip, 0}, {2500 * time.Microsecond, 3 * perTrip, 0},
		{20 * time.Millisecond, 0, 0}, {0, perTrip, 3*pieceSize + 1}, {20 * time.Millisecond, 0, 3*pieceSize + 1},
	} {
		near, far := net.Pipe()
		c := &crowded{room: x.room, data: make([]byte, len(want)+1), fails: x.fails, full: make(chan struct{})}
		if x.room == 0 {
			close(c.full)
		}
		server := sftp.NewRequestServer(far, sftp.Handlers{FilePut: c})
		go func() { _ = server.Serve() }()
		client, err := sftp.NewClientPipe(near, near, sftp.UseConcurrentWrites(true), sftp.MaxPacketUnchecked(largePacket))
		if err != nil {
			t.Fatal(err)
		}
		s := &session{sftp: client}
		if s.file, err = client.OpenFile("/a", os.O_WRONLY); err != nil {
			t.Fatal(err)
		}
		s.measured(x.trip)
		if cap(s.pieces) != x.room {
			t.Errorf("%v: room for %d pieces, want %d", x.trip, cap(s.pieces), x.room)
		}
		err = s.writeAt(want, 1)
		var status *sftp.StatusError
		if failed := errors.As(err, &status); failed != (x.fails != 0) || err != nil && !failed {
			t.Errorf("%v: %v", x.trip, err)
		}
		if x.fails == 0 && !bytes.Equal(c.data[1:], want) {
			t.Errorf("%v: other data", x.trip)
		}
		if x.room != 0 && (c.most > x.room || c.largest > pieceSize) {
			t.Errorf("%v: %d pieces under way of %d bytes at most, want %d of %d", x.trip, c.most, c.largest, x.room, pieceSize)
		}
		if len(s.pieces) != 0 {
			t.Errorf("%v: %d pieces are under way still", x.trip, len(s.pieces))
		}
		near.Close()
		far.Close()
	}
}
