package cryptio

import (
	"bytes"
	"context"
	"io"
	"math/rand"
	"runtime"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/sector"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// memory is Storage that moves bytes one sector at a time, so that requests that
// should wait for each other are seen to do.
type memory struct {
	driver.Storage
	mu sync.Mutex
	b  []byte
}

func (m *memory) Size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.b))
}

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += 512 {
		q := p[i:min(i+512, len(p))]
		m.mu.Lock()
		if end := off + int64(i+len(q)); end > int64(len(m.b)) {
			m.b = append(m.b, make([]byte, end-int64(len(m.b)))...)
		}
		copy(m.b[off+int64(i):], q)
		m.mu.Unlock()
		runtime.Gosched()
	}
	return len(p), nil
}

func newCipher(t testing.TB, mode string, size int) *sector.Cipher {
	t.Helper()
	c, err := sector.New(sector.Spec{Cipher: "aes", Mode: mode, IVGen: "plain64"}, bytes.Repeat([]byte{1, 2, 3, 4}, 8), size)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Random reads and writes against a plain copy, in which a sector that was never
// written holds decrypted zeroes.
func TestAgainstModel(t *testing.T) {
	ctx := context.Background()
	for _, v := range []struct {
		name  string
		mode  string
		size  int
		delta int64
	}{
		{"xts", "xts", 512, 0}, {"cbc shifted up", "cbc", 512, 7 * 512}, {"shifted down", "xts", 512, -5 * 512},
		{"large sectors", "xts", 4096, 0}, {"large sectors, shifted by 512", "xts", 4096, 4096 - 512},
	} {
		t.Run(v.name, func(t *testing.T) {
			rnd := rand.New(rand.NewSource(3))
			c := newCipher(t, v.mode, v.size)
			base := int64(0) // sectors that are not all in the child are left alone
			if v.delta != 0 {
				base = 5 * 512
				if v.size == 4096 {
					base = 512
				}
			}
			const n = 3 << 20
			m := &memory{b: make([]byte, base+n)}
			s := New(m, c, v.delta)
			model := make([]byte, n)
			c.Decrypt(model, model, uint64(base+v.delta)/512)
			rounds := 300
			if testkit.Race || testing.Short() {
				rounds = 40
			}
			for range rounds {
				length := 1 + rnd.Intn(9000)
				if rnd.Intn(20) == 0 {
					length = 1 + rnd.Intn(n)
				}
				off := rnd.Intn(n - length + 1)
				if rnd.Intn(3) == 0 {
					off, length = off&^511, min((length+511)&^511, n-off&^511)
				}
				p := make([]byte, length)
				if rnd.Intn(2) == 0 {
					rnd.Read(p)
					before := bytes.Clone(p)
					if k, err := s.WriteAt(ctx, p, base+int64(off)); err != nil || k != length {
						t.Fatalf("write of %d at %d: %d, %v", length, off, k, err)
					}
					if !bytes.Equal(p, before) {
						t.Fatal("WriteAt changed the caller's buffer")
					}
					copy(model[off:], p)
				} else {
					if k, err := s.ReadAt(ctx, p, base+int64(off)); err != nil || k != length {
						t.Fatalf("read of %d at %d: %d, %v", length, off, k, err)
					}
					if !bytes.Equal(p, model[off:off+length]) {
						t.Fatalf("read of %d at %d differs", length, off)
					}
				}
			}
			// What lies in the child is the model, encrypted sector by sector.
			want := make([]byte, n)
			c.Encrypt(want, model, uint64(base+v.delta)/512)
			if !bytes.Equal(m.b[base:], want) {
				t.Error("the child does not hold the encrypted bytes")
			}
		})
	}
}

// Several writers change parts of the same sectors, each bytes of its own, while
// readers look at them.
func TestConcurrentParts(t *testing.T) {
	ctx := context.Background()
	m := &memory{b: make([]byte, 8192)}
	s := New(m, newCipher(t, "cbc", 512), 0)
	if _, err := s.WriteAt(ctx, make([]byte, 8192), 0); err != nil {
		t.Fatal(err)
	}
	const writers = 8
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			view := s
			if w%2 == 1 {
				view = s.Shift(0)
			}
			// Every writers-th piece of 100 bytes is this one's.
			for round := range 30 {
				for off := int64(w * 100); off+100 <= 8192; off += writers * 100 {
					p := bytes.Repeat([]byte{byte(w*31 + round)}, 100)
					if _, err := view.WriteAt(ctx, p, off); err != nil {
						t.Error(err)
						return
					}
					q := make([]byte, 100)
					if _, err := view.ReadAt(ctx, q, off); err != nil || !bytes.Equal(p, q) {
						t.Errorf("writer %d does not read what it wrote at %d: %v", w, off, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestEnd(t *testing.T) {
	ctx := context.Background()
	m := &memory{}
	c := newCipher(t, "xts", 512)
	s := New(m, c, 0)
	if _, err := s.WriteAt(ctx, []byte("hello"), 1000); err != nil {
		t.Fatal(err)
	}
	if len(m.b) != 1024 {
		t.Errorf("the child has %d bytes, want whole sectors: 1024", len(m.b))
	}
	if bytes.Contains(m.b, []byte("hello")) {
		t.Error("plain text in the child")
	}
	x, err := s.Map(ctx, 0, 1<<20)
	if err != nil || x.Kind != driver.ExtentData || x.Length != 1024 {
		t.Errorf("Map: %+v, %v", x, err)
	}
	if x, _ := s.Map(ctx, 1024, 1); x.Kind != driver.ExtentEOF {
		t.Errorf("Map at the end: %+v", x)
	}
	// Beyond the end: decrypted zeroes.
	p, want := make([]byte, 512), make([]byte, 512)
	c.Decrypt(want, want, 2)
	if n, err := s.ReadAt(ctx, p, 1024); n != 512 || err != nil || !bytes.Equal(p, want) {
		t.Errorf("beyond the end: %d, %v", n, err)
	}
	if _, ok := any(s).(driver.Wrapper); ok {
		t.Error("it tells what it stands for")
	}
	if _, ok := any(s).(driver.RangeCopier); ok {
		t.Error("it copies ranges")
	}
}

func BenchmarkRead(b *testing.B) {
	m := &memory{b: make([]byte, 4<<20)}
	s := New(m, newCipher(b, "xts", 512), 0)
	for _, n := range []int{4 << 10, 64 << 10, 2 << 20} {
		b.Run("", func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = s.ReadAt(context.Background(), p, 0)
			}
		})
	}
}
