package sheepdog_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/sheepd"
	"github.com/cowl-disk/cowl/sheepdog"
)

// mutator is a connection whose answers are changed.
type mutator struct {
	net.Conn
	mu   sync.Mutex
	r    *rand.Rand
	odds int
}

// Read changes a byte now and then, mostly one that matters: answers begin with a header.
func (m *mutator) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	if n > 0 && m.r.IntN(m.odds) == 0 {
		switch at := m.r.IntN(min(n, 64)); m.r.IntN(4) {
		case 0:
			p[at] = byte(m.r.Uint32())
		case 1:
			p[at] ^= 1 << m.r.IntN(8)
		case 2:
			for i := at; i < min(n, at+4); i++ {
				p[i] = 0xff
			}
		case 3:
			return at + 1, io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// use does a bit of everything. All that may come of it are errors.
func use(ctx context.Context, c *sheepdog.Client, r *rand.Rand) {
	v, err := c.Open(ctx, sheepdog.Open{Name: "disk", Lock: true})
	if err != nil {
		return
	}
	size := v.Size()
	off := r.Int64N(max(size, 1))
	p := make([]byte, min(size-off, 100<<10))
	if len(p) > 0 {
		_ = v.ReadAt(ctx, p, off)
		_ = v.WriteAt(ctx, p, off)
		_ = v.Zero(ctx, off, int64(len(p)), true, false)
	}
	_, _ = v.Snapshots(ctx)
	switch r.IntN(4) {
	case 0:
		_, _ = v.TakeSnapshot(ctx, "tag")
	case 1:
		_ = v.Apply(ctx, "1")
	case 2:
		_ = v.Grow(ctx, min(size+4096, 8<<20))
	}
	_ = v.Discard(ctx, 0, size)
	_ = v.Close(ctx)
}

// TestMutated uses servers whose answers are changed: no panic, no hang, no more memory
// than the answers take.
func TestMutated(t *testing.T) {
	everyday := 60
	if testkit.Race {
		everyday = 15
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	rounds := testkit.Count(everyday)
	var cluster *sheepd.Cluster
	var address string
	for seed := range uint64(rounds) {
		if seed%50 == 0 {
			cluster = sheepd.NewCluster(sheepd.Config{Shift: 20, Trim: true})
			address = cluster.Start(t).Address
			c := connect(t, address, 0)
			must(t, c.Create(t.Context(), sheepdog.New{Name: "disk", Size: 3 << 20}))
		}
		r := rand.New(rand.NewPCG(seed, 3))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // against a hang
		c, err := sheepdog.Connect(ctx, sheepdog.Config{Timeout: 50 * time.Millisecond, Dial: func(ctx context.Context) (net.Conn, error) {
			nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			return &mutator{Conn: nc, r: rand.New(rand.NewPCG(seed, r.Uint64())), odds: 2 + int(seed%12)}, nil
		}})
		must(t, err)
		use(ctx, c, r)
		if err := ctx.Err(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		c.Close()
		cancel()
	}
	runtime.ReadMemStats(&after)
	// The bitmaps of VDIs are 2 MiB each; the server in this process makes more of them.
	if each := (after.TotalAlloc - before.TotalAlloc) / uint64(rounds); each > 64<<20 {
		t.Errorf("%d bytes were allocated in each round", each)
	}
}

// FuzzAnswers feeds bytes to a client as what a server answers.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 48))
	answer := make([]byte, 48+568)
	answer[8] = 2
	answer[24], answer[13] = 1, 2
	f.Add(append(make([]byte, 48), answer...))
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ours, theirs := net.Pipe()
		first := true
		c, err := sheepdog.Connect(ctx, sheepdog.Config{Dial: func(context.Context) (net.Conn, error) {
			if !first {
				return nil, errors.New("once only")
			}
			first = false
			return ours, nil
		}})
		must(t, err)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, theirs) })
		wg.Go(func() {
			_, _ = theirs.Write(data)
			theirs.Close()
		})
		use(ctx, c, rand.New(rand.NewPCG(1, 1)))
		c.Close()
		wg.Wait()
		if ctx.Err() != nil {
			t.Error("it does not end")
		}
	})
}
