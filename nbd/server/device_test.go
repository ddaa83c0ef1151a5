package server_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// memory is a device of bytes in memory.
type memory struct {
	mu      sync.RWMutex
	b       []byte
	flushes atomic.Int64
	fuas    atomic.Int64
	broken  atomic.Int64 // reads at or beyond fail, unless 0
	// hold, if set, is received from before each request is executed.
	hold chan struct{}
	// arrived, if set, is sent to when a request waits for hold.
	arrived chan struct{}
	// flags records those of the last WriteZeroes.
	flags atomic.Int32
}

func newMemory(size int) *memory { return &memory{b: make([]byte, size)} }

// at returns a byte.
func (m *memory) at(i int) byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.b[i]
}

func (m *memory) wait(ctx context.Context) error {
	if m.hold == nil {
		return nil
	}
	if m.arrived != nil {
		m.arrived <- struct{}{}
	}
	select {
	case <-m.hold:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *memory) Size() int64 { return int64(len(m.b)) }

func (m *memory) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := m.wait(ctx); err != nil {
		return err
	}
	if b := m.broken.Load(); b != 0 && off+int64(len(p)) > b {
		return errors.New("broken")
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	copy(p, m.b[off:])
	return nil
}

func (m *memory) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	if err := m.wait(ctx); err != nil {
		return err
	}
	if fua {
		m.fuas.Add(1)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.b[off:], p)
	return nil
}

func (m *memory) Flush(ctx context.Context) error {
	m.flushes.Add(1)
	return m.wait(ctx)
}

func (m *memory) Trim(ctx context.Context, off, n int64) error {
	return m.WriteZeroes(ctx, off, n, 0)
}

func (m *memory) WriteZeroes(_ context.Context, off, n int64, flags server.ZeroFlags) error {
	m.flags.Store(int32(flags))
	if flags&server.ZeroFast != 0 {
		return wire.ENOTSUP
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.b[off : off+n])
	return nil
}

func (m *memory) Cache(context.Context, int64, int64) error { return nil }

func (m *memory) Contexts() []string { return []string{wire.ContextAllocation, "x:halves"} }

// BlockStatus says of each 64 KiB whether it is zero, and of "x:halves" which half
// of the device it is.
func (m *memory) BlockStatus(_ context.Context, name string, off, n int64, yield func(int64, uint64) bool) error {
	if name == "x:halves" {
		half := m.Size() / 2
		if off < half {
			k := min(n, half-off)
			if !yield(k, 1) {
				return nil
			}
			n -= k
		}
		if n > 0 {
			yield(n, 2)
		}
		return nil
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for n > 0 {
		k := min(n, 64<<10-off%(64<<10))
		flags := uint64(wire.StateHole | wire.StateZero)
		for _, b := range m.b[off : off+k] {
			if b != 0 {
				flags = 0
				break
			}
		}
		if !yield(k, flags) {
			return nil
		}
		off, n = off+k, n-k
	}
	return nil
}

// start serves exports at a socket, until the end of the test.
func start(t testing.TB, cfg server.Config, exports ...*server.Export) (s *server.Server, sock string) {
	t.Helper()
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = time.Minute // a busy machine does not reach it
	}
	s = server.New(cfg)
	for _, e := range exports {
		if err := s.AddExport(e); err != nil {
			t.Fatal(err)
		}
	}
	sock = filepath.Join(t.TempDir(), "nbd.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		end, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		if err := s.Shutdown(end); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		cancel()
		if err := <-done; !errors.Is(err, server.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, sock
}

// dial connects to a socket, until the end of the test.
func dial(t testing.TB, sock string, change ...func(*client.Config)) *client.Conn {
	t.Helper()
	cfg := client.Config{Network: "unix", Address: sock}
	for _, f := range change {
		f(&cfg)
	}
	c, err := client.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func mode(m client.Mode) func(*client.Config) {
	return func(c *client.Config) { c.MaxMode = m }
}

func contexts(names ...string) func(*client.Config) {
	return func(c *client.Config) { c.Contexts = names }
}
