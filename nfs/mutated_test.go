package nfs_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nfs"
)

// mutator passes connections on to a server and changes answers.
type mutator struct {
	net.Listener
	to      string
	running sync.WaitGroup

	mu   sync.Mutex
	r    *rand.Rand
	odds int // one of so many answers is changed
}

func mutate(t testing.TB, to string) *mutator {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mutator{Listener: l, to: to}
	m.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.running.Go(func() { m.pass(c) })
		}
	})
	t.Cleanup(func() { l.Close(); m.running.Wait() })
	return m
}

func (m *mutator) port() int { return m.Addr().(*net.TCPAddr).Port }

func (m *mutator) pass(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", m.to)
	if err != nil {
		return
	}
	defer up.Close()
	m.running.Go(func() {
		_, _ = io.Copy(up, c)
		up.Close()
	})
	for {
		var mark [4]byte
		if _, err := io.ReadFull(up, mark[:]); err != nil {
			return
		}
		b := make([]byte, 4+binary.BigEndian.Uint32(mark[:])&0x7fffffff)
		copy(b, mark[:])
		if _, err := io.ReadFull(up, b[4:]); err != nil {
			return
		}
		if _, err := c.Write(m.change(b)); err != nil {
			return
		}
	}
}

// change changes an answer: a word, mostly of its head, or its end.
func (m *mutator) change(b []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.r == nil || m.r.IntN(m.odds) > 0 {
		return b
	}
	words := min(len(b)/4, 80)
	at := 4 * m.r.IntN(words)
	switch m.r.IntN(6) {
	case 0:
		binary.BigEndian.PutUint32(b[at:], m.r.Uint32())
	case 1:
		binary.BigEndian.PutUint32(b[at:], binary.BigEndian.Uint32(b[at:])+1)
	case 2:
		binary.BigEndian.PutUint32(b[at:], 0xffffffff)
	case 3:
		b[at+m.r.IntN(4)] ^= 1 << m.r.IntN(8)
	case 4: // shorter, and said to be
		b = b[:4+at]
		binary.BigEndian.PutUint32(b, 1<<31|uint32(at))
	case 5:
		b = append(b, b...)
	}
	return b
}

func (m *mutator) seed(seed uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.r, m.odds = rand.New(rand.NewPCG(seed, seed)), 3+int(seed%8)
}

// hostile uses a server whose answers are changed. All that may come of it are errors.
func hostile(t *testing.T, m *mutator, cfg nfs.Config, dir string, seed uint64) {
	t.Helper()
	m.seed(seed)
	cfg.Timeout = 40 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // against a hang
	defer cancel()
	c, err := nfs.Mount(ctx, cfg, dir)
	if err == nil {
		var f *nfs.File
		if f, _, _, err = c.Create(ctx, "hostile", 0o600); err == nil {
			p := make([]byte, 10000)
			err = errors.Join(f.WriteAt(ctx, p, 5), f.Sync(ctx), f.Resize(ctx, 100))
			_, rerr := f.ReadAt(ctx, p[:70], 0)
			_, _, serr := f.NextData(ctx, 0)
			err = errors.Join(err, rerr, serr, f.Close(ctx))
		}
		_ = c.Remove(ctx, "hostile")
		c.Close(ctx)
	}
	if ctx.Err() != nil {
		t.Fatalf("seed %d hangs", seed)
	}
	_ = err
}

// TestMutated: answers of version 3 that are changed.
func TestMutated(t *testing.T) {
	s := newServer(t)
	m := mutate(t, s.Addr().String())
	s.config.NFSPort, s.config.MountPort = m.port(), m.port()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n := testkit.Count(40)
	for seed := range uint64(n) {
		hostile(t, m, s.config, "/", seed)
	}
	runtime.ReadMemStats(&after)
	if per := (after.TotalAlloc - before.TotalAlloc) / uint64(n); per > 64<<20 {
		t.Errorf("%d bytes for each", per)
	}
}

// script answers each call with the next part of what a fuzzer made.
type script struct {
	net.Conn
	replies []byte
	out     chan []byte
	left    []byte
	end     chan struct{}
	once    sync.Once
}

func (s *script) Write(b []byte) (int, error) {
	// Calls come in one piece, but for what is written: its answer is there before.
	if len(b) < 8 || len(s.replies) == 0 {
		s.Close()
		return 0, syscall.EPIPE
	}
	n := min(4*int(s.replies[0]), len(s.replies)-1)
	reply := make([]byte, 8, 8+16+n)
	copy(reply[4:], b[4:8])
	reply = append(reply, 0, 0, 0, 1)
	reply = append(reply, make([]byte, 16)...)
	reply = append(reply, s.replies[1:1+n]...)
	binary.BigEndian.PutUint32(reply, 1<<31|uint32(len(reply)-4))
	s.replies = s.replies[1+n:]
	select {
	case s.out <- reply:
	case <-s.end:
	}
	return len(b), nil
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.left) == 0 {
		select {
		case s.left = <-s.out:
		case <-s.end:
			return 0, io.EOF
		}
	}
	n := copy(b, s.left)
	s.left = s.left[n:]
	return n, nil
}

func (s *script) Close() error {
	s.once.Do(func() { close(s.end) })
	return nil
}

func (*script) SetWriteDeadline(time.Time) error { return nil }

// scripted uses a server that answers as a fuzzer likes.
func scripted(t *testing.T, version string, replies []byte) {
	dial := func(context.Context, string) (net.Conn, error) {
		s := &script{replies: replies, out: make(chan []byte, 64), end: make(chan struct{})}
		replies = nil // once
		return s, nil
	}
	cfg := nfs.Config{Host: "h", NFSPort: 1, MountPort: 1, Version: version, Connections: 1, Timeout: 3 * time.Millisecond, Dial: dial}
	if version == nfs.Version3 { // the mount service is another connection
		mounted := false
		cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			if !mounted {
				mounted = true
				return &script{replies: append([]byte{4, 0, 0, 0, 0, 0, 0, 0, 1, '/', 0, 0, 0, 0, 0, 0, 0}, 0), out: make(chan []byte, 64), end: make(chan struct{})}, nil
			}
			return dial(ctx, address)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := nfs.Mount(ctx, cfg, "/")
	if err != nil {
		return
	}
	defer c.Close(ctx)
	f, a, err := c.Open(ctx, "x", true)
	if err != nil {
		return
	}
	if a.Size < 0 {
		t.Errorf("a size of %d", a.Size)
	}
	p := make([]byte, 100)
	if n, err := f.ReadAt(ctx, p, 0); n < 0 || n > len(p) || err == nil && n < len(p) {
		t.Errorf("%d bytes of %d, %v", n, len(p), err)
	}
	_ = f.WriteAt(ctx, p, 0)
	_ = f.Sync(ctx)
	if next, _, err := f.NextData(ctx, 0); err == nil && next < 0 {
		t.Errorf("data at %d", next)
	}
	_ = f.Close(ctx)
}

// FuzzVersion3: a server's answers are anything.
func FuzzVersion3(f *testing.F) {
	fsinfo := make([]byte, 1+4*13)
	fsinfo[0] = 13
	lookup := append([]byte{4}, 0, 0, 0, 0, 0, 0, 0, 4, 'f', 'i', 'l', 'e', 0, 0, 0, 0)
	f.Add(append(fsinfo, lookup...))
	f.Fuzz(func(t *testing.T, replies []byte) { scripted(t, nfs.Version3, replies) })
}

// FuzzVersion4: the same, of version 4.
func FuzzVersion4(f *testing.F) {
	exchange := []byte{17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 42, 0, 0, 0, 0}
	f.Add(append(exchange, make([]byte, 48)...))
	f.Fuzz(func(t *testing.T, replies []byte) { scripted(t, nfs.Version42, replies) })
}
