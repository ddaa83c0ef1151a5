package drivertest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// pick chooses a range of a disk: often small and anywhere, sometimes whole
// clusters, sometimes many of them.
func pick(r *rand.Rand, size, cluster int64) (off, n int64) {
	cluster = max(cluster, 4096)
	off = r.Int64N(size)
	switch r.IntN(5) {
	case 0, 1:
		n = 1 + r.Int64N(8192)
	case 2:
		off = off / 512 * 512
		n = (1 + r.Int64N(128)) * 512
	case 3:
		off = off / cluster * cluster
		n = (1 + r.Int64N(4)) * cluster
	default:
		n = 1 + r.Int64N(5*cluster)
	}
	return off, min(n, size-off)
}

// testRandom runs random operations beside a model, and every now and then
// closes the image, checks it and opens it again.
func testRandom(t *testing.T, s *suite) {
	seeds, rounds, steps := 3, 6, 60
	if s.light() {
		rounds = 2
	}
	if testkit.Race {
		seeds = 1 // one caller: Concurrent is about several
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) {
			name := s.create(t, nil)
			img := s.open(t, name, true)
			m := testkit.NewModel(img.Size())
			r := testkit.Rand(seed)
			for range rounds {
				for i := range steps {
					s.randomStep(t, img, m, r, i)
				}
				s.compare(t, img, m)
				closeImage(t, img)
				s.verify(t, name, m)
				img = s.open(t, name, true)
			}
			closeImage(t, img)
		})
	}
}

// randomStep does one operation on both sides.
func (s *suite) randomStep(t testing.TB, img *block.Image, m *testkit.Model, r *rand.Rand, step int) {
	t.Helper()
	ctx := context.Background()
	cluster := img.Limits().ClusterSize
	off, n := pick(r, m.Size(), cluster)
	fail := func(what string, err error) {
		t.Helper()
		if err != nil && err != io.EOF {
			t.Fatalf("step %d: %s %d+%d of %d: %v", step, what, off, n, m.Size(), err)
		}
	}
	switch r.IntN(12) {
	case 0, 1, 2, 3:
		p := make([]byte, n)
		testkit.FillDisk(r, p)
		_, err := img.WriteAt(ctx, p, off)
		fail("write", err)
		m.Write(p, off)
	case 4:
		flags := driver.ZeroFlags(0)
		if r.IntN(2) == 0 {
			flags = driver.ZeroMayUnmap
		}
		fail("zeroes", img.WriteZeroes(ctx, off, n, flags))
		m.Zero(off, n)
	case 5:
		fail("discard", img.Discard(ctx, off, n))
		adoptDiscarded(t, img, m, off, n)
	case 6:
		fail("flush", img.Flush(ctx))
	case 7:
		if r.IntN(3) != 0 || img.Traits().FixedSize {
			return
		}
		size := max(512, (m.Size()+(r.Int64N(4<<20)-2<<20))/512*512)
		if err := img.Resize(ctx, size, driver.ResizeOptions{}); unsupported(err) {
			return
		} else {
			fail(fmt.Sprintf("resize to %d", size), err)
		}
		if img.Size() < size || img.Size() > size+1<<20 {
			t.Fatalf("step %d: size %d after resizing to %d", step, img.Size(), size)
		}
		if old := m.Size(); s.Garbage && img.Size() > old {
			fail("zeroes behind the old end", img.WriteZeroes(ctx, old, img.Size()-old, 0))
		}
		m.Resize(img.Size())
	case 8:
		writeCompressed(t, img, m, r)
	default:
		p := make([]byte, n)
		_, err := img.ReadAt(ctx, p, off)
		fail("read", err)
		if d := m.Diff(p, off); d != "" {
			t.Fatalf("step %d: %s", step, d)
		}
	}
}

// adoptDiscarded takes over what a discarded range reads as: what was there, or
// zeroes, or what the backing file has.
func adoptDiscarded(t testing.TB, img *block.Image, m *testkit.Model, off, n int64) {
	t.Helper()
	p := make([]byte, n)
	if _, err := img.ReadAt(context.Background(), p, off); err != nil && err != io.EOF {
		t.Fatalf("read %d+%d after discard: %v", off, n, err)
	}
	old := m.Read(off, n)
	for i, b := range p {
		if b != 0 && b != old[i] && img.Backing() == nil {
			t.Fatalf("byte %d is %#x after discard, and was %#x", off+int64(i), b, old[i])
		}
	}
	m.Write(p, off)
}

// writeCompressed stores a compressed cluster where none is allocated.
func writeCompressed(t testing.TB, img *block.Image, m *testkit.Model, r *rand.Rand) {
	t.Helper()
	ctx := context.Background()
	cluster := img.Limits().ClusterSize
	if !img.CanCompress() || cluster == 0 {
		return
	}
	off := r.Int64N(m.Size()) / cluster * cluster
	in := min(cluster, m.Size()-off)
	st, err := img.StatusLayer(ctx, off, in)
	if err != nil {
		t.Fatalf("status of %d: %v", off, err)
	}
	if has, n, err := img.AllocatedLayer(ctx, off, in); err != nil || has != st.Allocated || n < st.Length {
		t.Fatalf("at %d: allocated %v for %d bytes, %v; the status says %+v", off, has, n, err, st)
	}
	if st.Data || st.Zero || st.Allocated || st.Length < in {
		return
	}
	p := make([]byte, cluster)
	testkit.FillDisk(r, p[:in])
	enc, ok, err := img.Encode(nil, p)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	if ok {
		err = img.WriteEncoded(ctx, off, enc)
	} else {
		_, err = img.WriteAt(ctx, p[:in], off)
	}
	if err != nil {
		t.Fatalf("compressed write at %d: %v", off, err)
	}
	m.Write(p[:in], off)
}
