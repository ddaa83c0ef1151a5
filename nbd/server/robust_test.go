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
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/wire"
)

func option(b []byte, o wire.Option, data []byte) []byte {
	h := make([]byte, wire.OptionHeaderLen)
	wire.OptionHeader{Option: o, Length: uint32(len(data))}.Put(h)
	return append(append(b, h...), data...)
}

// hello is what a client sends to get to the transmission phase.
func hello(m client.Mode) []byte {
	b := []byte{0, 0, 0, 3}
	if m == client.ModeStructured {
		b = option(b, wire.OptStructuredReply, nil)
	}
	if m == client.ModeExtended {
		b = option(b, wire.OptExtendedHeaders, nil)
	}
	if m > client.ModeSimple {
		b = option(b, wire.OptSetMetaContext, wire.MetaQuery{Queries: []string{wire.ContextAllocation}}.Append(nil))
	}
	return option(b, wire.OptGo, wire.InfoRequest{Infos: []wire.InfoType{wire.InfoBlockSize}}.Append(nil))
}

func request(b []byte, m client.Mode, r wire.Request, payload []byte) []byte {
	h := make([]byte, wire.ExtendedRequestLen)
	n := 0
	if m == client.ModeExtended {
		n = r.PutExtended(h)
	} else {
		n = r.Put(h)
	}
	return append(append(b, h[:n]...), payload...)
}

// stream is a whole conversation from the client's side.
func stream(r *rand.Rand) []byte {
	m := modes[r.IntN(3)]
	var b []byte
	b = append(b, hello(m)...)
	if r.IntN(4) == 0 {
		b = option(b[:4:4], wire.OptList, nil)
		b = append(b, hello(m)[4:]...)
	}
	for range r.IntN(8) {
		q := wire.Request{Type: wire.Command(r.IntN(9)), Flags: wire.CmdFlags(r.IntN(2)), Cookie: r.Uint64(), Offset: r.Uint64N(1 << 16), Length: r.Uint64N(1 << 12)}
		var payload []byte
		switch q.Type {
		case wire.CmdWrite:
			payload = make([]byte, q.Length)
		case wire.CmdBlockStatus:
			if m == client.ModeExtended && r.IntN(2) == 0 {
				payload = wire.AppendStatusPayload(nil, q.Length, []uint32{1})
				q.Flags, q.Length = wire.CmdFlagPayloadLen, uint64(len(payload))
			}
		case wire.CmdFlush:
			q.Offset, q.Length = 0, 0
		}
		b = request(b, m, q, payload)
	}
	return b
}

// mutate damages a stream in one of several ways.
func mutate(r *rand.Rand, b []byte) []byte {
	if r.IntN(20) == 0 {
		b = make([]byte, r.IntN(200))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	for range 1 + r.IntN(4) {
		i := r.IntN(len(b))
		switch r.IntN(5) {
		case 0:
			b[i] ^= 1 << r.IntN(8)
		case 1:
			b[i] = []byte{0, 1, 0x7f, 0x80, 0xff}[r.IntN(5)]
		case 2:
			b = slices.Insert(b, i, byte(r.Uint32()))
		case 3:
			b = slices.Delete(b, i, min(len(b), i+1+r.IntN(8)))
		case 4:
			b = b[:i]
		}
		if len(b) == 0 {
			return b
		}
	}
	return b
}

// waitIdle waits until s has no clients and there are no more goroutines than before.
func waitIdle(t *testing.T, s *server.Server, before int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); s.Clients() > 0 || runtime.NumGoroutine() > before; {
		if time.Now().After(end) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d clients, %d goroutines, %d before:\n%s", s.Clients(), runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
		<-time.After(time.Millisecond)
	}
}

// undisturbed has a good client work until stop is called.
func undisturbed(t *testing.T, sock string) (stop func()) {
	c := dial(t, sock, func(c *client.Config) { c.Export = "good" })
	var end atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		want := bytes.Repeat([]byte{0x5a}, 10000)
		got := make([]byte, len(want))
		for i := int64(0); !end.Load(); i++ {
			off := i % 1000
			if err := errors.Join(c.WriteAt(context.Background(), want, off, false), c.ReadAt(context.Background(), got, off)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the good client is disturbed: %v", err)
				return
			}
		}
	}()
	return func() {
		end.Store(true)
		<-done
		c.Close()
	}
}

// TestHostileStreams sends thousands of damaged conversations.
func TestHostileStreams(t *testing.T) {
	n := 12000
	if testing.Short() || testkit.Race {
		n = 1500
	}
	s, sock := start(t, server.Config{}, &server.Export{Device: newMemory(1 << 17)}, &server.Export{Name: "good", Device: newMemory(1 << 17)})
	before := runtime.NumGoroutine()
	stop := undisturbed(t, sock)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range n / 8 {
				b := mutate(r, stream(r))
				c, err := net.Dial("unix", sock)
				if err != nil {
					t.Error(err)
					return
				}
				u := c.(*net.UnixConn)
				u.SetDeadline(time.Now().Add(time.Minute))
				go func() {
					u.Write(b)
					u.CloseWrite()
				}()
				if _, err := io.Copy(io.Discard, u); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the server hangs at %x", b)
				}
				u.Close()
			}
		})
	}
	wg.Wait()
	stop()
	waitIdle(t, s, before)
	var ms runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&ms)
	if ms.HeapAlloc > 64<<20 {
		t.Errorf("%d bytes are left", ms.HeapAlloc)
	}
}

// raw connects and sends bytes.
func raw(t *testing.T, sock string, b []byte) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// TestLostClients has clients go away at bad moments.
func TestLostClients(t *testing.T) {
	s, sock := start(t, server.Config{}, &server.Export{Device: newMemory(64 << 20)}, &server.Export{Name: "good", Device: newMemory(1 << 17)})
	before := runtime.NumGoroutine()
	stop := undisturbed(t, sock)
	for _, m := range modes {
		// In the middle of payloads, small and large.
		for _, n := range []uint64{4096, 100000, 20 << 20} {
			q := wire.Request{Type: wire.CmdWrite, Length: n, Flags: 0}
			raw(t, sock, request(hello(m), m, q, make([]byte, n/2))).Close()
		}
		raw(t, sock, request(hello(m), m, wire.Request{Type: wire.CmdRead, Length: 1}, nil)[:60]).Close()
		// Without reading what it has asked for.
		b := hello(m)
		for i := range 64 {
			b = request(b, m, wire.Request{Type: wire.CmdRead, Cookie: uint64(i), Length: 4 << 20}, nil)
		}
		c := raw(t, sock, b)
		io.ReadFull(c, make([]byte, 200))
		c.Close()
	}
	stop()
	waitIdle(t, s, before)
}

// TestSilentClients: what says nothing, or not enough, and stays, is left when the time is up.
func TestSilentClients(t *testing.T) {
	s, sock := start(t, server.Config{HandshakeTimeout: 100 * time.Millisecond}, &server.Export{Device: newMemory(1)})
	before := runtime.NumGoroutine()
	for _, say := range [][]byte{nil, hello(client.ModeSimple)[:20]} {
		c, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write(say) // the time can be up before
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a client that says %d bytes is not left", len(say))
		}
	}
	waitIdle(t, s, before)
}

// TestManyClients serves 200 clients at once.
func TestManyClients(t *testing.T) {
	_, sock := start(t, server.Config{}, &server.Export{Device: newMemory(1 << 20)})
	var wg sync.WaitGroup
	conns := make([]*client.Conn, 200)
	for i := range conns {
		wg.Go(func() {
			c, err := client.Dial(context.Background(), client.Config{Network: "unix", Address: sock})
			if err != nil {
				t.Error(err)
				return
			}
			conns[i] = c
			p := make([]byte, 4096)
			for range 20 {
				if err := c.ReadAt(context.Background(), p, int64(i)*4096); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

// TestMemory has 16 clients keep as much under way as they can, none of which reads
// fast, and measures what the server holds.
func TestMemory(t *testing.T) {
	if testkit.Race {
		t.Skip("the race detector needs memory of its own")
	}
	dev := &holes{size: 1 << 30}
	_, sock := start(t, server.Config{}, &server.Export{Device: dev})
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	base := ms.HeapInuse + ms.StackInuse
	payload := make([]byte, 4<<20)
	end := time.Now().Add(1500 * time.Millisecond)
	var wg sync.WaitGroup
	for i := range 16 {
		m := modes[i%3]
		c := raw(t, sock, hello(m))
		c.SetDeadline(end)
		wg.Go(func() { // reads slowly
			b := make([]byte, 64<<10)
			for {
				if _, err := c.Read(b); err != nil {
					return
				}
				runtime.Gosched()
			}
		})
		wg.Go(func() {
			for k := uint64(0); ; k++ {
				q := wire.Request{Type: wire.CmdRead, Cookie: k, Length: 32 << 20}
				var p []byte
				if k%2 == 0 {
					q.Type, q.Length, p = wire.CmdWrite, uint64(len(payload)), payload
				}
				if _, err := c.Write(request(nil, m, q, nil)); err != nil {
					return
				}
				if _, err := c.Write(p); err != nil {
					return
				}
			}
		})
	}
	var peak uint64
	for time.Now().Before(end) {
		runtime.ReadMemStats(&ms)
		peak = max(peak, ms.HeapInuse+ms.StackInuse-min(base, ms.HeapInuse+ms.StackInuse))
		<-time.After(5 * time.Millisecond)
	}
	wg.Wait()
	t.Logf("peak %d KiB", peak>>10)
	if peak > 64<<20 {
		t.Errorf("%d bytes", peak)
	}
}

// holes is a large device that holds nothing and takes everything.
type holes struct{ size int64 }

func (h *holes) Size() int64 { return h.size }
func (h *holes) ReadAt(_ context.Context, p []byte, off int64) error {
	for i := 0; i+8 <= len(p); i += 4096 {
		binary.BigEndian.PutUint64(p[i:], uint64(off)+1)
	}
	return nil
}
func (h *holes) WriteAt(context.Context, []byte, int64, bool) error { return nil }
func (h *holes) Flush(context.Context) error                        { return nil }
