package server_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// onFile is a device in a file, behind shift bytes. Beyond the end of the file it is
// zeroes, or broken.
type onFile struct {
	f           *os.File
	shift, size int64
	broken      atomic.Bool
	read        atomic.Int64 // bytes that were not sent from the file
}

func (d *onFile) Size() int64 { return d.size }

func (d *onFile) ReadAt(_ context.Context, p []byte, off int64) error {
	d.read.Add(int64(len(p)))
	n, err := d.f.ReadAt(p, d.shift+off)
	if err == io.EOF && !d.broken.Load() {
		clear(p[n:])
		err = nil
	}
	return err
}

func (d *onFile) WriteAt(_ context.Context, p []byte, off int64, _ bool) error {
	_, err := d.f.WriteAt(p, d.shift+off)
	return err
}

func (d *onFile) Flush(context.Context) error { return nil }

func (d *onFile) FileRange(_ context.Context, off, _ int64) (*os.File, int64, bool) {
	return d.f, d.shift + off, true
}

// newOnFile makes a device of bytes none of which is zero.
func newOnFile(t *testing.T, size int64) (d *onFile, disk []byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	d = &onFile{f: f, shift: 777, size: size}
	disk = make([]byte, size)
	for i := range disk {
		disk[i] = byte(i%251) + 1
	}
	for i := 0; i+8 <= len(disk); i += 509 {
		binary.BigEndian.PutUint64(disk[i:], uint64(i)|0x0101010101010101)
	}
	if err := d.WriteAt(t.Context(), disk, 0, false); err != nil {
		t.Fatal(err)
	}
	return d, disk
}

// TestFileRange reads at all alignments, in every way that a read is dealt with.
func TestFileRange(t *testing.T) {
	each(t, func(t *testing.T, m client.Mode) {
		d, disk := newOnFile(t, 6<<20)
		clear(disk[2<<20 : 3<<20]) // pieces of it are holes
		if err := d.WriteAt(t.Context(), disk[2<<20:3<<20], 2<<20, false); err != nil {
			t.Fatal(err)
		}
		_, sock := start(t, server.Config{}, &server.Export{Device: d})
		c := dial(t, sock, mode(m))
		r := testkit.Rand(1)
		total := int64(0)
		for i := range 120 {
			off, n := r.IntN(1<<20), []int{256<<10 - 1, 256 << 10, 512 << 10, 512<<10 + 1, 2 << 20, 5 << 20}[i%6]
			if i > 60 {
				off &^= 511
			}
			n = min(n+r.IntN(3), len(disk)-off)
			got := bytes.Repeat([]byte{0xee}, n)
			if err := c.ReadAt(t.Context(), got, int64(off)); err != nil {
				t.Fatalf("%d bytes at %d: %v", n, off, err)
			}
			if !bytes.Equal(got, disk[off:off+n]) {
				t.Fatalf("%d bytes at %d differ", n, off)
			}
			total += int64(n)
		}
		if got := d.read.Load(); sendsFiles(d.f) && got > total/2 {
			t.Errorf("%d of %d bytes were read", got, total)
		}
	})
}

// TestFileRangeHoles wants no zeroes sent to a client that can be told of holes.
func TestFileRangeHoles(t *testing.T) {
	d, _ := newOnFile(t, 1<<20)
	if err := d.WriteAt(t.Context(), make([]byte, 512<<10), 0, false); err != nil {
		t.Fatal(err)
	}
	_, sock := start(t, server.Config{}, &server.Export{Device: d})
	nc := raw(t, sock, hello(client.ModeStructured))
	ask := request(nil, client.ModeStructured, wire.Request{Type: wire.CmdRead, Cookie: 0x1122334455667788, Length: 512 << 10}, nil)
	if _, err := nc.Write(append(ask, request(nil, client.ModeStructured, wire.Request{Type: wire.CmdDisc}, nil)...)); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(nc)
	if err != nil || len(all) > 4096 {
		t.Errorf("%d bytes, %v", len(all), err)
	}
	if want := wire.OffsetHoleLen; len(all) < want || binary.BigEndian.Uint32(all[len(all)-4:]) != 512<<10 {
		t.Errorf("no hole in the answer: %x", all)
	}
}

// TestFileRangeBesideWrites reads what stays while all around it is written.
func TestFileRangeBesideWrites(t *testing.T) {
	const zone = 1 << 20
	d, disk := newOnFile(t, 8*zone)
	_, sock := start(t, server.Config{}, &server.Export{Device: d, MultiConn: true})
	var wg sync.WaitGroup
	rounds := 40
	if testkit.Race || testing.Short() {
		rounds = 8
	}
	for k := range 4 {
		c := dial(t, sock, mode(modes[k%3]))
		for j := range 2 {
			r := testkit.Rand(uint64(2*k + j))
			wg.Go(func() {
				for range rounds {
					if err := readAndWrite(t.Context(), c, r, disk, k, zone); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}

// readAndWrite reads from one of the even zones of the disk, which nobody writes, and
// writes to an odd one.
func readAndWrite(ctx context.Context, c *client.Conn, r *rand.Rand, disk []byte, k, zone int) error {
	off := 2*r.IntN(4)*zone + r.IntN(zone/4)
	got := make([]byte, zone/4+r.IntN(zone/2))
	if err := c.ReadAt(ctx, got, int64(off)); err != nil {
		return err
	}
	if !bytes.Equal(got, disk[off:off+len(got)]) {
		return errors.New("what was read differs")
	}
	return c.WriteAt(ctx, got[:r.IntN(len(got))], int64((2*k+1)*zone), false)
}

// TestFileRangeTruncated cuts the file under the server: what is missing is what the
// device says, or the end of the connection.
func TestFileRangeTruncated(t *testing.T) {
	each(t, func(t *testing.T, m client.Mode) {
		d, disk := newOnFile(t, 4<<20)
		_, sock := start(t, server.Config{}, &server.Export{Device: d})
		c := dial(t, sock, mode(m))
		got := make([]byte, 4<<20)
		read := func() error { return c.ReadAt(t.Context(), got, 0) }
		if err := read(); err != nil || !bytes.Equal(got, disk) {
			t.Fatalf("%v", err)
		}
		end := 3<<20 + 100_000
		if err := d.f.Truncate(d.shift + int64(end)); err != nil {
			t.Fatal(err)
		}
		clear(disk[end:])
		if err := read(); err != nil || !bytes.Equal(got, disk) {
			t.Errorf("zeroes: %v", err)
		}
		d.broken.Store(true)
		if err := read(); err == nil {
			t.Error("no error, although the file is too short")
		}
	})
}

// TestFileRangeEndsEarly has the file shrink after the answer has begun.
func TestFileRangeEndsEarly(t *testing.T) {
	for _, broken := range []bool{false, true} {
		d, disk := newOnFile(t, 16<<20)
		_, sock := start(t, server.Config{}, &server.Export{Device: d})
		nc := raw(t, sock, hello(client.ModeSimple))
		head := make([]byte, wire.SimpleReplyLen)
		ask := request(nil, client.ModeSimple, wire.Request{Type: wire.CmdRead, Length: 16 << 20}, nil)
		ask = append(ask, request(nil, client.ModeSimple, wire.Request{Type: wire.CmdDisc}, nil)...)
		if _, err := nc.Write(ask); err != nil {
			t.Fatal(err)
		}
		skipTo(t, nc, []byte{0x67, 0x44, 0x66, 0x98}, len(head)-4)
		got := make([]byte, 16<<20)
		if _, err := io.ReadFull(nc, got[:4096]); err != nil {
			t.Fatal(err)
		}
		d.broken.Store(broken)
		const end = 8 << 20 // further than the socket holds
		if err := d.f.Truncate(d.shift + end); err != nil {
			t.Fatal(err)
		}
		n, err := io.ReadFull(nc, got[4096:])
		switch {
		case d.read.Load() >= 16<<20:
			t.Log("the file was read before")
		case broken && err == nil:
			t.Error("a reply that could not be completed")
		case !broken && err != nil:
			t.Errorf("after %d bytes: %v", n, err)
		case !broken && !bytes.Equal(got[:end], disk[:end]), !broken && !bytes.Equal(got[end:], make([]byte, 8<<20)):
			t.Error("the reply differs")
		}
	}
}

// skipTo reads up to a mark and n bytes beyond it.
func skipTo(t *testing.T, r io.Reader, mark []byte, n int) {
	t.Helper()
	window := make([]byte, len(mark))
	if _, err := io.ReadFull(r, window); err != nil {
		t.Fatal(err)
	}
	for !bytes.Equal(window, mark) {
		copy(window, window[1:])
		if _, err := io.ReadFull(r, window[len(mark)-1:]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

// socketPair returns the ends of a connection.
func socketPair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if ours, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

// TestFileRangeStalled has clients stop reading in the middle of an answer. The
// server's end, at the end of the test, must not wait for them.
func TestFileRangeStalled(t *testing.T) {
	d, _ := newOnFile(t, 16<<20)
	before := runtime.NumGoroutine()
	s := server.New(server.Config{})
	if err := s.AddExport(&server.Export{Device: d}); err != nil {
		t.Fatal(err)
	}
	for _, m := range modes {
		ours, theirs := socketPair(t)
		done := make(chan struct{})
		go func() {
			s.ServeConn(context.Background(), theirs)
			close(done)
		}()
		b := hello(m)
		for i := range 4 {
			b = request(b, m, wire.Request{Type: wire.CmdRead, Offset: uint64(i) << 20, Length: 4 << 20}, nil)
		}
		if _, err := ours.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(ours, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		if m == client.ModeSimple {
			ours.Close()
			<-done
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	waitIdle(t, s, before)
}
