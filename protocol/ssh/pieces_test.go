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

// TestPieces: of a write few pieces are under way, and all arrive; a piece that fails is an error of the write.
func TestPieces(t *testing.T) {
	want := make([]byte, 9*pieceSize+1234)
	testkit.Fill(testkit.Rand(1), want)
	for _, x := range []struct {
		trip  time.Duration
		room  int
		fails int64
	}{
		{0, perTrip, 0}, {900 * time.Microsecond, perTrip, 0}, {2500 * time.Microsecond, 3 * perTrip, 0},
		{20 * time.Millisecond, firstPieces, 0}, {0, perTrip, 3*pieceSize + 1}, {20 * time.Millisecond, firstPieces, 3*pieceSize + 1},
	} {
		near, far := net.Pipe()
		c := &crowded{room: x.room, data: make([]byte, len(want)+1), fails: x.fails, full: make(chan struct{})}
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
		if s.window.limit != x.room {
			t.Errorf("%v: room for %d pieces, want %d", x.trip, s.window.limit, x.room)
		}
		s.window.far = false // TestWindow is about how it changes
		err = s.writeAt(want, 1)
		var status *sftp.StatusError
		if failed := errors.As(err, &status); failed != (x.fails != 0) || err != nil && !failed {
			t.Errorf("%v: %v", x.trip, err)
		}
		if x.fails == 0 && !bytes.Equal(c.data[1:], want) {
			t.Errorf("%v: other data", x.trip)
		}
		if c.most > x.room || c.largest > pieceSize {
			t.Errorf("%v: %d pieces under way of %d bytes at most, want %d of %d", x.trip, c.most, c.largest, x.room, pieceSize)
		}
		if s.window.busy != 0 {
			t.Errorf("%v: %d pieces are under way still", x.trip, s.window.busy)
		}
		near.Close()
		far.Close()
	}
}

// TestWindow: to a far server as much is under way as fills the way there, and not more than a little beside, while it takes
// pieces one after the other: fast, slowly and fast again, and when the way has become longer.
func TestWindow(t *testing.T) {
	const short, long = 40 * time.Millisecond, 200 * time.Millisecond
	w := newWindow(short)
	now := time.Now()
	free := now // when the server can take the next piece
	type piece struct{ sent, answered time.Time }
	var under []piece
	for _, x := range []struct {
		each, trip  time.Duration // that the server takes, and the way
		steady      bool          // from the start there were so many
		least, most int           // pieces, in the end
	}{
		{100 * time.Microsecond, short, false, farPieces, farPieces}, // 400 fill the way
		{4 * time.Millisecond, short, true, 10 + fewWaiting/2, 10 + manyWaiting},
		{100 * time.Microsecond, short, false, farPieces, farPieces},
		{40 * time.Millisecond, short, true, firstPieces, firstPieces + manyWaiting},
		{100 * time.Microsecond, long, false, farPieces, farPieces},
	} {
		lowest, trip := w.limit, x.trip
		for range 1000 {
			for w.busy < w.limit {
				w.enter()
				begin := now.Add(trip / 2)
				if free.After(begin) {
					begin = free
				}
				free = begin.Add(x.each)
				under = append(under, piece{now, free.Add(trip / 2)})
			}
			p := under[0]
			under = under[1:]
			now = p.answered
			w.leave(p.sent, p.answered)
			lowest = min(lowest, w.limit)
		}
		if w.limit < x.least || w.limit > x.most || x.steady && lowest < x.least {
			t.Errorf("%v for each piece, %v for the way: %d pieces, at least %d, want %d to %d", x.each, x.trip, w.limit, lowest, x.least, x.most)
		}
	}
}
