package iscsi_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/iscsid"
	"github.com/cowl-disk/cowl/iscsi"
)

// testkitListener is an address that takes connections and says nothing.
func testkitListener(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// chunk is what a target sent after the initiator had written so many bytes. Requests
// are written one by one or several at once.
type chunk struct {
	written int
	data    []byte
}

// recorder records what comes over a connection.
type recorder struct {
	net.Conn
	mu      sync.Mutex
	written int
	chunks  []chunk
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.written += len(p)
	r.mu.Unlock()
	return r.Conn.Write(p)
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > 0 {
		r.chunks = append(r.chunks, chunk{r.written, bytes.Clone(p[:n])})
	}
	return n, err
}

// script is a connection whose other side sends what was recorded, and then ends.
type script struct {
	net.Conn
	chunks   []chunk
	patience time.Duration
	mu       sync.Mutex
	wrote    chan struct{} // closed at the next write
	written  int
	closed   bool
}

// patience is how long a script that was changed waits for a write that does not come,
// since other answers make other requests.
const patience = 5 * time.Millisecond

func (s *script) Read(p []byte) (int, error) {
	for {
		s.mu.Lock()
		if len(s.chunks) == 0 || s.closed {
			s.mu.Unlock()
			return 0, io.EOF
		}
		c := &s.chunks[0]
		if s.written >= c.written {
			n := copy(p, c.data)
			if c.data = c.data[n:]; len(c.data) == 0 {
				s.chunks = s.chunks[1:]
			}
			s.mu.Unlock()
			return n, nil
		}
		wrote := s.wrote
		s.mu.Unlock()
		select {
		case <-wrote:
		case <-time.After(s.patience):
			s.mu.Lock()
			c.written = 0
			s.mu.Unlock()
		}
	}
}

func (s *script) more(n int, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written += n
	s.closed = s.closed || closed
	close(s.wrote)
	s.wrote = make(chan struct{})
}

func (s *script) Write(p []byte) (int, error) { s.more(len(p), false); return len(p), nil }
func (s *script) Close() error                { s.more(0, true); return nil }

// visit is a short session; its errors are of no interest.
func visit(ctx context.Context, cfg iscsi.Config) error {
	s, err := iscsi.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	l := iscsi.LUN{Doer: s, Number: 1}
	_, err = l.Inquiry(ctx)
	p := make([]byte, 32<<10)
	for _, f := range []func() error{
		func() error { _, err := l.Capacity(ctx); return err },
		func() error { _, err := l.Mode(ctx); return err },
		func() error { _, err := l.Page(ctx, iscsi.PageSupported); return err },
		func() error { b, err := l.Page(ctx, iscsi.PageLimits); iscsi.ParseLimits(b); return err },
		func() error { b, err := l.Page(ctx, iscsi.PageProvisioning); iscsi.ParseProvisioning(b); return err },
		func() error { _, err := l.ReportLUNs(ctx); return err },
		func() error { return l.Write(ctx, p, iscsi.Transfer{Blocks: 64}) },
		func() error { return l.Read(ctx, p, iscsi.Transfer{Blocks: 64}) },
		func() error { return l.Unmap(ctx, iscsi.BlockRange{LBA: 3, Blocks: 8}) },
		func() error { _, err := l.Status(ctx, 0); return err },
		func() error { return l.Sync(ctx) },
		func() error { return l.TestUnitReady(ctx) },
	} {
		if err == nil {
			err = f()
		}
	}
	return err
}

// record returns what a target sends during visit.
func record(t testing.TB, c iscsid.Config, cfg iscsi.Config) []chunk {
	t.Helper()
	u := iscsid.NewUnit(1<<20, 512)
	u.Thin = true
	s := iscsid.Start(t, c, map[uint32]*iscsid.Unit{1: u})
	cfg.Address, cfg.Target = s.Address, s.Name
	r := &recorder{}
	cfg.Dial = func(_ context.Context, network, address string) (nc net.Conn, err error) {
		r.Conn, err = net.Dial(network, address)
		return r, err
	}
	if err := visit(testkit.Guard(t), cfg); err != nil {
		t.Fatal(err)
	}
	return r.chunks
}

// replay visits a target that sends a stream.
func replay(chunks []chunk, cfg iscsi.Config, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg.Address, cfg.Target = "portal", "iqn.2026-01.test:t"
	s := &script{chunks: chunks, patience: patience, wrote: make(chan struct{})}
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) { return s, nil }
	err := visit(ctx, cfg)
	if ctx.Err() != nil {
		panic("the initiator hangs")
	}
	return err
}

var hostileConfigs = []struct {
	target    iscsid.Config
	initiator iscsi.Config
}{
	{iscsid.Config{}, iscsi.Config{}},
	{iscsid.Config{Digests: true, MaxBurst: 4096}, iscsi.Config{HeaderDigest: iscsi.DigestPrefer, DataDigest: iscsi.DigestPrefer}},
	{iscsid.Config{User: "joe", Secret: "x"}, iscsi.Config{CHAP: &iscsi.Credentials{User: "joe", Secret: "x"}}},
}

// TestHostile mutates what a target sends.
func TestHostile(t *testing.T) {
	for i, c := range hostileConfigs {
		chunks := record(t, c.target, c.initiator)
		if err := replay(slices.Clone(chunks), c.initiator, time.Minute); err != nil {
			t.Fatalf("as it was recorded: %v", err)
		}
		if err := replay(split(join(chunks)), c.initiator, time.Minute); err != nil {
			t.Fatalf("as a seed of the fuzzer: %v", err)
		}
		r := testkit.Rand(uint64(i))
		for range testkit.Count(50) {
			_ = replay(mutate(r.IntN, chunks), c.initiator, patience)
		}
	}
}

// mutate changes some bytes of what a target sends, cuts it, or doubles a part.
func mutate(intN func(int) int, chunks []chunk) []chunk {
	chunks = slices.Clone(chunks)
	for range 1 + intN(3) {
		i := intN(len(chunks))
		b := bytes.Clone(chunks[i].data)
		at := intN(len(b))
		if intN(3) > 0 {
			at = intN(min(len(b), 48)) // the header
		}
		switch intN(6) {
		case 0:
			b[at] ^= 1 << intN(8)
		case 1:
			b[at] = byte(intN(256))
		case 2:
			b[at] = 0xff
		case 3:
			b = b[:at+1]
		case 4:
			n := intN(min(200, len(b)-at)) + 1
			b = append(bytes.Clone(b[:at+n]), b[at:]...)
		case 5:
			at &^= 3
			copy(b[at:], []byte{0, 0, 0, byte(intN(256))})
		}
		chunks[i].data = b
	}
	return chunks
}

// join and split turn chunks into bytes and back, whatever these are.
func join(chunks []chunk) []byte {
	var b []byte
	before := 0
	for _, c := range chunks {
		b = binary.BigEndian.AppendUint16(b, uint16(c.written-before))
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(c.data))), c.data...)
		before = c.written
	}
	return b
}

func split(b []byte) []chunk {
	var chunks []chunk
	written := 0
	for len(b) > 4 {
		n := min(int(binary.BigEndian.Uint16(b[2:])), len(b)-4)
		written += int(binary.BigEndian.Uint16(b))
		chunks = append(chunks, chunk{written, b[4 : 4+n]})
		b = b[4+n:]
	}
	return chunks
}

// FuzzTarget gives the initiator any stream.
func FuzzTarget(f *testing.F) {
	for _, c := range hostileConfigs {
		f.Add(join(record(f, c.target, c.initiator)))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		if len(stream) > 1<<16 {
			return
		}
		for _, c := range hostileConfigs {
			_ = replay(split(stream), c.initiator, patience)
		}
	})
}
