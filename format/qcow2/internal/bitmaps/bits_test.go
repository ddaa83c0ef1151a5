package bitmaps

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// modelBits is a bit set that cannot be wrong.
type modelBits struct {
	shift uint
	size  int64
	bits  []bool
}

func (m *modelBits) set(off, n int64) {
	for g := off >> m.shift; g<<m.shift < off+n && g < int64(len(m.bits)); g++ {
		m.bits[g] = true
	}
}

func (m *modelBits) resize(size int64) {
	bits := make([]bool, granules(size, m.shift))
	copy(bits, m.bits)
	m.bits, m.size = bits, size
}

func (m *modelBits) bytes() (n int64) {
	for g, set := range m.bits {
		if set {
			n += min(1<<m.shift, m.size-int64(g)<<m.shift)
		}
	}
	return n
}

func (m *modelBits) compare(t *testing.T, s *bitSet) {
	t.Helper()
	if s.n != int64(len(m.bits)) || s.size != m.size {
		t.Fatalf("%d bits of %d bytes, want %d of %d", s.n, s.size, len(m.bits), m.size)
	}
	for g := int64(0); g < s.n; {
		set, n := s.run(g, s.n)
		if n <= 0 {
			t.Fatalf("a run of %d at %d", n, g)
		}
		for i := range n {
			if m.bits[g+i] != set {
				t.Fatalf("bit %d is %t", g+i, set)
			}
		}
		if g+n < s.n && m.bits[g+n] == set {
			t.Fatalf("the run at %d ends early, at %d", g, g+n)
		}
		g += n
	}
	if got, want := s.bytes(), m.bytes(); got != want {
		t.Fatalf("%d bytes are dirty, want %d", got, want)
	}
}

func TestBitSet(t *testing.T) {
	for seed := range uint64(12) {
		r := testkit.Rand(seed)
		budget := &driver.Budget{}
		shift := uint(9 + r.IntN(3))
		size := 1 + r.Int64N(200_000<<shift)
		s, err := newBitSet(size, shift, budget)
		if err != nil {
			t.Fatal(err)
		}
		m := &modelBits{shift: shift}
		m.resize(size)
		for range 60 {
			if r.IntN(12) == 0 {
				size = 1 + r.Int64N(200_000<<shift)
				next, err := s.resized(size)
				if err != nil {
					t.Fatal(err)
				}
				s.release()
				s = next
				m.resize(size)
			} else {
				off := r.Int64N(size)
				n := 1 + r.Int64N(min(size-off, 1<<(8+r.IntN(20))))
				covered := true
				for g := off >> shift; g<<shift < off+n; g++ {
					covered = covered && m.bits[g]
				}
				if s.covers(off, n) != covered {
					t.Fatalf("covers(%d, %d) is not %t", off, n, covered)
				}
				s.setRange(off, n)
				m.set(off, n)
			}
			m.compare(t, s)
		}
		// What is exported loads as the same.
		other, err := newBitSet(size, shift, budget)
		if err != nil {
			t.Fatal(err)
		}
		piece := make([]byte, 512<<r.IntN(6))
		for lo := int64(0); lo < s.n; lo += int64(len(piece)) * 8 {
			zero, ones := s.export(piece, lo)
			set, n := s.run(lo, min(s.n, lo+int64(len(piece))*8))
			if whole := n == min(s.n-lo, int64(len(piece))*8); zero != (whole && !set) || ones != (whole && set) {
				t.Fatalf("at %d: zero %t, ones %t", lo, zero, ones)
			}
			if r.IntN(2) == 0 { // bits beyond the end do not matter
				for i := max(0, s.n-lo); i < int64(len(piece))*8; i++ {
					piece[i/8] |= 1 << (i % 8)
				}
			}
			if err := other.load(piece, lo); err != nil {
				t.Fatal(err)
			}
		}
		m.compare(t, other)
		s.release()
		other.release()
		if err := budget.Table("all", 512<<20); err != nil {
			t.Fatalf("something was not given back: %v", err)
		}
	}
}

// TestBitSetWithoutRoom: where the budget ends, more is dirty than was written.
func TestBitSetWithoutRoom(t *testing.T) {
	budget := &driver.Budget{MaxMemory: 40 << 10}
	if _, err := newBitSet(128<<30, 9, budget); err == nil { // 8192 pages
		t.Fatal("8192 pages fit into 40 KiB")
	}
	s, err := newBitSet(8<<30, 9, budget)
	if err != nil {
		t.Fatal(err)
	}
	r := testkit.Rand(1)
	var offs []int64
	for range 1000 {
		off := r.Int64N(8 << 30)
		s.setRange(off, 1)
		offs = append(offs, off)
	}
	for _, off := range offs {
		if !s.covers(off, 1) {
			t.Fatalf("%d is not dirty", off)
		}
	}
	if got := s.reserved.Load(); got > 40<<10 {
		t.Fatalf("%d bytes reserved", got)
	}
}

// TestBitSetIsSparse: a bitmap of the largest size costs little until it is used.
func TestBitSetIsSparse(t *testing.T) {
	s, err := newBitSet(2<<40, 9, &driver.Budget{MaxMemory: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s.setRange(0, 2<<40)
	if !s.covers(0, 2<<40) || s.bytes() != 2<<40 {
		t.Fatal("not all is dirty")
	}
	if got := s.reserved.Load(); got > 2<<20 {
		t.Fatalf("%d bytes reserved", got)
	}
}

func TestBitSetConcurrent(t *testing.T) {
	s, err := newBitSet(1<<30, 9, &driver.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	m := &modelBits{shift: 9}
	m.resize(1 << 30)
	var wg sync.WaitGroup
	for i := range uint64(4) {
		r := testkit.Rand(i)
		var list [][2]int64
		for range 500 {
			off := r.Int64N(1<<30 - 1<<20)
			n := 1 + r.Int64N(1<<20)
			if r.IntN(50) == 0 {
				off, n = off&^(1<<24-1), 1<<24 // whole pages
				n = min(n, 1<<30-off)
			}
			list = append(list, [2]int64{off, n})
			m.set(off, n)
		}
		wg.Go(func() {
			for _, x := range list {
				s.setRange(x[0], x[1])
				if !s.covers(x[0], x[1]) {
					t.Errorf("%v is not covered", x)
				}
			}
		})
	}
	wg.Wait()
	m.compare(t, s)
}

func BenchmarkMark(b *testing.B) {
	s, err := newBitSet(1<<40, 16, &driver.Budget{})
	if err != nil {
		b.Fatal(err)
	}
	s.setRange(0, 64<<20)
	bm := &bitmap{}
	bm.bits.Store(s)
	list := []*bitmap{bm}
	set := New(nil, nil, "")
	b.Run("none", func(b *testing.B) {
		for b.Loop() {
			set.Mark(123456, 4096)
		}
	})
	set.recording.Store(&list)
	b.Run("set", func(b *testing.B) {
		for b.Loop() {
			set.Mark(123456, 4096)
		}
	})
	b.Run("new", func(b *testing.B) {
		r := rand.New(rand.NewPCG(1, 2))
		for b.Loop() {
			set.Mark(r.Int64N(1<<40-4096), 4096)
		}
	})
}

// FuzzBitSet loads stored bits.
func FuzzBitSet(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8}, int64(100), uint8(9))
	f.Add(binary.LittleEndian.AppendUint64(nil, ^uint64(0)), int64(20000), uint8(9))
	f.Fuzz(func(t *testing.T, src []byte, size int64, shift uint8) {
		if size <= 0 || size > 1<<32 || shift < 9 || shift > 31 {
			return
		}
		s, err := newBitSet(size, uint(shift), &driver.Budget{})
		if err != nil {
			t.Fatal(err)
		}
		src = append(src, make([]byte, -len(src)&511)...)
		if err := s.load(src, 0); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, len(src))
		if len(back) == 0 {
			return
		}
		s.export(back, 0)
		for i := range min(int64(len(src))*8, s.n) {
			if (src[i/8]^back[i/8])>>(i%8)&1 != 0 {
				t.Fatalf("bit %d changed", i)
			}
		}
		if n := s.bytes(); n < 0 || n > size {
			t.Fatalf("%d bytes of %d are dirty", n, size)
		}
	})
}
