package differential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// rounds of the matrix: images of each kind of test.
func matrixImages(n int) int {
	if testing.Short() || testkit.Race {
		return n / 8
	}
	if !testkit.Long() {
		return n / 3
	}
	return n
}

// TestQcow2Ours writes images of all kinds with our library. QEMU
// reads the same and finds nothing to complain about.
func TestQcow2Ours(t *testing.T) {
	testkit.Tool(t, "qemu-img")
	for seed := range matrixImages(110) {
		r := testkit.Rand(uint64(seed))
		s := pickSpec(r)
		t.Run(fmt.Sprint(seed, " ", s), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := dir + "/image"
			m := s.makeBase(t, r, dir)
			o := s.options(dir)
			if s.backing != "" {
				o["backing_file"], o["backing_fmt"] = "base", s.backing
			}
			req := block.CreateRequest{Filename: path, Format: "qcow2", Size: s.size, Options: o, Gate: driver.AllowAll}
			if err := block.Create(t.Context(), block.NewRegistry(drivers.All()...), req); err != nil {
				t.Fatal(err)
			}
			checkBoth(t, path)
			for range 2 {
				changeByUs(t, r, path, m)
				checkBoth(t, path)
				if d := m.Diff(readByOriginal(t, path), 0); d != "" {
					t.Fatal("QEMU reads: ", d)
				}
			}
		})
	}
}

// changeByUs changes an image and the model of it at random.
func changeByUs(t *testing.T, r *rand.Rand, path string, m *testkit.Model) {
	t.Helper()
	img := library(t, path, true)
	var log []string
	next := int64(0)
	for range 30 {
		what, err := changeOnce(t.Context(), r, img, m, &next)
		log = append(log, what)
		if err != nil {
			t.Fatalf("%v\nafter %s", err, strings.Join(log, "\n"))
		}
	}
	if d := m.Diff(readLibrary(t, img), 0); d != "" {
		t.Fatalf("we read: %s\nafter %s", d, strings.Join(log, "\n"))
	}
	closeLibrary(t, img)
	if t.Failed() {
		t.Log(strings.Join(log, "\n"))
	}
}

// changeOnce makes one random change. next is where sequential writes go on.
func changeOnce(ctx context.Context, r *rand.Rand, img *block.Image, m *testkit.Model, next *int64) (string, error) {
	size, cs := img.Size(), img.Limits().ClusterSize
	off := r.Int64N(size)
	n := min(1+r.Int64N(pick(r, 512, cs, 3*cs, 64<<10, 1<<20)), size-off)
	if r.IntN(3) > 0 {
		off &^= 511
		n = min((n+511)&^511, size-off)
	}
	say := func(what string) string { return fmt.Sprintf("%s %d+%d of %d", what, off, n, size) }
	write := func() error {
		p := make([]byte, n)
		testkit.FillDisk(r, p)
		_, err := img.WriteAt(ctx, p, off)
		m.Write(p, off)
		return err
	}
	switch k := r.IntN(24); {
	case k < 7:
		return say("write"), write()
	case k < 11:
		if *next >= size {
			*next = 0
		}
		off = *next
		n = min(n, size-off)
		*next += n
		return say("write sequentially"), write()
	case k < 15:
		flags := driver.ZeroFlags(r.IntN(2)) * driver.ZeroMayUnmap
		m.Zero(off, n)
		return say(fmt.Sprintf("zeroes %d", flags)), img.WriteZeroes(ctx, off, n, flags)
	case k < 18:
		return say("discard"), discard(ctx, img, m, off, n)
	case k < 19:
		return "flush", img.Flush(ctx)
	case k < 22 && img.CanCompress():
		off = off / cs * cs
		n = min(cs, size-off)
		return say("write compressed"), writeCompressed(ctx, r, img, m, off, n, write)
	case k < 24:
		to := (size/2 + r.Int64N(size) + 511) &^ 511
		to = min(to, 24<<20)
		mode := driver.PreallocOff
		if to > size && img.Backing() == nil {
			mode = pick(r, driver.PreallocOff, driver.PreallocMetadata, driver.PreallocFalloc, driver.PreallocFull)
		}
		err := img.Resize(ctx, to, driver.ResizeOptions{Prealloc: mode})
		if err == nil {
			m.Resize(to)
		} else if strings.Contains(err.Error(), "can't resize a v2 image which has snapshots") {
			err = nil
		}
		return fmt.Sprintf("resize %d to %d, %v", size, to, mode), err
	}
	return say("write"), write()
}

// discard discards a range. Each part that the image may give up must read as it
// did, as zeroes, or as the backing file; the rest is as it was.
func discard(ctx context.Context, img *block.Image, m *testkit.Model, off, n int64) error {
	if err := img.Discard(ctx, off, n); err != nil {
		return err
	}
	got, below := make([]byte, n), make([]byte, n)
	if _, err := img.ReadAt(ctx, got, off); err != nil {
		return err
	}
	if b := img.Backing(); b != nil && off < b.Size() {
		if _, err := b.ReadAt(ctx, below[:min(n, b.Size()-off)], off); err != nil {
			return err
		}
	}
	unit := img.Limits().DiscardAlignment
	for at := off; at < off+n; {
		end := min(at/unit*unit+unit, off+n)
		whole := at%unit == 0 && (end%unit == 0 || end == img.Size())
		p := got[at-off : end-off]
		if d := m.Diff(p, at); d != "" {
			if !whole || len(bytes.Trim(p, "\x00")) > 0 && !bytes.Equal(p, below[at-off:end-off]) {
				return fmt.Errorf("after the discard: %s", d)
			}
			m.Write(p, at)
		}
		at = end
	}
	return nil
}

// writeCompressed stores a cluster compressed if it is free and compressible.
func writeCompressed(ctx context.Context, r *rand.Rand, img *block.Image, m *testkit.Model, off, n int64, write func() error) error {
	st, err := img.StatusLayer(ctx, off, n)
	if err != nil {
		return err
	}
	if st.Allocated || st.Data || st.Zero || st.Length < n {
		return write()
	}
	p := make([]byte, img.Limits().ClusterSize)
	testkit.FillDisk(r, p)
	clear(p[n:])
	enc, ok, err := img.Encode(nil, p)
	if err != nil && !errors.Is(err, driver.ErrUnsupported) {
		return err
	}
	if !ok {
		return write()
	}
	err = img.WriteEncoded(ctx, off, enc)
	if err != nil && strings.Contains(err.Error(), "already allocated") {
		// Room that is preallocated for subclusters shows the backing file.
		return write()
	}
	m.Write(p[:n], off)
	return err
}
