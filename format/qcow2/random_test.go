package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// variants are the kinds of image that the random tests run on.
var variants = []struct {
	name    string
	size    int64
	options []string
	open    []string
}{
	{name: "default", size: 20 << 20},
	{name: "v2", size: 20<<20 + 512, options: []string{"compat=0.10"}},
	{name: "v2 backing", size: 4 << 20, options: []string{"compat=0.10", "cluster_size=4k", "backing"}},
	{name: "512", size: 4<<20 + 1536, options: []string{"cluster_size=512"}},
	{name: "512 refcount1", size: 2 << 20, options: []string{"cluster_size=512", "refcount_bits=1"}},
	{name: "4k backing", size: 8 << 20, options: []string{"cluster_size=4k", "backing"}},
	{name: "backing", size: 20<<20 + 5120, options: []string{"backing"}},
	{name: "refcount64", size: 4 << 20, options: []string{"cluster_size=1k", "refcount_bits=64"}},
	{name: "2M", size: 60 << 20, options: []string{"cluster_size=2M"}},
	{name: "extended", size: 20 << 20, options: []string{"extended_l2=on"}},
	{name: "extended 16k backing", size: 8<<20 + 1024, options: []string{"extended_l2=on", "cluster_size=16k", "backing"}},
	{name: "zstd", size: 8 << 20, options: []string{"compression_type=zstd"}},
	{name: "lazy", size: 8 << 20, options: []string{"lazy_refcounts=on", "cluster_size=4k"}},
	{name: "tiny caches", size: 8 << 20, options: []string{"cluster_size=4k"}, open: []string{"l2-cache-size=1k", "refcount-cache-size=1k", "l2-cache-entry-size=512"}},
	{name: "no unref", size: 8 << 20, options: []string{"cluster_size=4k"}, open: []string{"discard-no-unref=on"}},
	{name: "metadata", size: 8 << 20, options: []string{"preallocation=metadata"}},
	{name: "extended metadata", size: 8 << 20, options: []string{"preallocation=metadata", "extended_l2=on"}},
	{name: "data file", size: 8 << 20, options: []string{"data_file=data.raw"}},
	{name: "data file raw", size: 8 << 20, options: []string{"data_file=data.raw", "data_file_raw=on"}},
	{name: "data file extended", size: 8 << 20, options: []string{"data_file=data.raw", "extended_l2=on"}},
}

// makeVariant creates the image and what is below it, and a model of both.
func makeVariant(t *testing.T, dir string, size int64, options []string) (string, *testkit.Model) {
	t.Helper()
	path := filepath.Join(dir, "test.qcow2")
	m := testkit.NewModel(size)
	var o []string
	for _, opt := range options {
		switch {
		case opt == "backing":
			base := filepath.Join(dir, "base.qcow2")
			n := size * 3 / 4 &^ 511
			create(t, base, n)
			b := make([]byte, n)
			testkit.FillDisk(testkit.Rand(1), b)
			img := openImage(t, base, true)
			if _, err := img.WriteAt(context.Background(), b, 0); err != nil {
				t.Fatal(err)
			}
			closeImage(t, img)
			m.Write(b, 0)
			o = append(o, "backing_file=base.qcow2", "backing_fmt=qcow2")
		case strings.HasPrefix(opt, "data_file="):
			o = append(o, "data_file="+filepath.Join(dir, opt[len("data_file="):]))
		default:
			o = append(o, opt)
		}
	}
	create(t, path, size, o...)
	return path, m
}

// step makes one random change to the image and the model.
func step(t *testing.T, r *rand.Rand, img *block.Image, m *testkit.Model, resize bool) string {
	t.Helper()
	ctx := context.Background()
	size := img.Size()
	off := r.Int64N(size)
	n := min(1+r.Int64N([]int64{600, 5000, 70000, 3 << 20}[r.IntN(4)]), size-off)
	if r.IntN(2) == 0 {
		off &^= 511
		n = min((n+511)&^511, size-off)
	}
	var err error
	var what string
	switch k := r.IntN(20); {
	case k < 9:
		what = "write"
		p := make([]byte, n)
		testkit.FillDisk(r, p)
		_, err = img.WriteAt(ctx, p, off)
		m.Write(p, off)
	case k < 13:
		flags := driver.ZeroFlags(r.IntN(2))
		what = fmt.Sprintf("zero %d", flags)
		err = img.WriteZeroes(ctx, off, n, flags)
		m.Zero(off, n)
	case k < 16:
		what = "discard"
		err = img.Discard(ctx, off, n)
		// What whole clusters read as is the image's choice, the rest is kept.
		got := make([]byte, n)
		if _, rerr := img.ReadAt(ctx, got, off); rerr != nil {
			t.Fatal(rerr)
		}
		cs := img.Limits().ClusterSize
		start, end := (off+cs-1)/cs*cs, (off+n)/cs*cs
		if off+n == size {
			end = size
		}
		if start < end {
			if inner := got[start-off : end-off]; len(bytes.Trim(inner, "\x00")) == 0 {
				m.Zero(start, end-start)
			} else if bytes.Equal(inner, m.Read(start, end-start)) {
				what += " (kept)"
			}
		}
	case k < 17:
		what = "flush"
		err = img.Flush(ctx)
	case k < 18 && img.CanCompress():
		what = "compress"
		cs := img.Limits().ClusterSize
		off = off / cs * cs
		p := make([]byte, cs)
		testkit.FillDisk(r, p)
		n = min(cs, size-off)
		clear(p[n:])
		if derr := img.Discard(ctx, off, n); derr != nil {
			t.Fatal(derr)
		}
		enc, ok, eerr := img.Encode(nil, p)
		if eerr != nil && !errors.Is(eerr, driver.ErrUnsupported) {
			t.Fatal(eerr)
		}
		if ok {
			werr := img.WriteEncoded(ctx, off, enc)
			if werr != nil && !strings.Contains(werr.Error(), "already allocated") {
				err = werr
			}
			ok = werr == nil
		}
		if !ok {
			_, err = img.WriteAt(ctx, p[:n], off)
		}
		m.Write(p[:n], off)
	case k < 19 && resize:
		what = "resize"
		next := max(4096, size+(r.Int64N(4<<20)-2<<20)&^511)
		modes := []driver.Prealloc{driver.PreallocOff, driver.PreallocOff, driver.PreallocMetadata, driver.PreallocFalloc, driver.PreallocFull}
		mode := modes[r.IntN(len(modes))]
		if next < size {
			mode = driver.PreallocOff
		}
		what = fmt.Sprintf("resize %s to %d", mode, next)
		if err = img.Resize(ctx, next, driver.ResizeOptions{Prealloc: mode}); err == nil {
			m.Resize(next)
		}
		off, n = 0, 0
	default:
		what = "read"
		got := make([]byte, n)
		if _, err = img.ReadAt(ctx, got, off); err == nil {
			if d := m.Diff(got, off); d != "" {
				t.Fatal(d)
			}
		}
	}
	what = fmt.Sprintf("%s %d+%d", what, off, n)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return what
}

func TestRandomOperations(t *testing.T) {
	t.Parallel()
	testkit.NoRace(t, "TestConcurrentRegions has several callers")
	for i, v := range variants {
		if !testkit.Sample(i, 3) {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			dir := t.TempDir()
			path, m := makeVariant(t, dir, v.size, v.options)
			r := testkit.Rand(7)
			rounds, steps := 4, 60
			if !testkit.Long() {
				rounds, steps = 2, 30
			}
			for round := range rounds {
				img := openImage(t, path, true, v.open...)
				var log []string
				for i := range steps {
					log = append(log, step(t, r, img, m, round > 0))
					if i%8 == 7 {
						got := readAll(t, img)
						if d := m.Diff(got, 0); d != "" {
							t.Fatalf("%s\nafter %s", d, strings.Join(log[max(0, len(log)-8):], "\n"))
						}
					}
				}
				closeImage(t, img)
				checkClean(t, path)
				if d := m.Diff(original(t, path), 0); d != "" {
					t.Fatalf("read by QEMU: %s\nafter %s", d, strings.Join(log, "\n"))
				}
				st, err := os.Stat(path)
				if err != nil || st.Size() == 0 {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestConcurrentRegions lets several goroutines work on stripes of the disk that
// share clusters, with caches so small that metadata is written back all the
// time.
func TestConcurrentRegions(t *testing.T) {
	const workers, stripe, size = 6, 1536, 6 << 20
	for _, o := range [][]string{{"cluster_size=4k"}, {"cluster_size=512"}, {"extended_l2=on", "cluster_size=16k"}, {"cluster_size=64k", "backing"}, {"cluster_size=4k", "lazy_refcounts=on"}} {
		t.Run(fmt.Sprint(o), func(t *testing.T) {
			path, m := makeVariant(t, t.TempDir(), size, o)
			img := openImage(t, path, true, "l2-cache-size=4k", "l2-cache-entry-size=512", "refcount-cache-size=1k")
			ctx := context.Background()
			models := make([]*testkit.Model, workers)
			var wg sync.WaitGroup
			for w := range workers {
				models[w] = m.Clone()
				wg.Go(func() {
					r := testkit.Rand(uint64(w))
					p := make([]byte, stripe)
					for range 400 {
						off := (r.Int64N(size/stripe/workers)*workers + int64(w)) * stripe
						var err error
						switch k := r.IntN(10); {
						case k < 6:
							testkit.Fill(r, p)
							_, err = img.WriteAt(ctx, p, off)
							models[w].Write(p, off)
						case k < 8:
							err = img.WriteZeroes(ctx, off, stripe, driver.ZeroMayUnmap)
							models[w].Zero(off, stripe)
						case k == 8 && r.IntN(10) == 0:
							err = img.Flush(ctx)
						default:
							if _, err = img.ReadAt(ctx, p, off); err == nil {
								if d := models[w].Diff(p, off); d != "" {
									t.Errorf("worker %d: %s", w, d)
									return
								}
							}
						}
						if err != nil {
							t.Errorf("worker %d at %d: %v", w, off, err)
							return
						}
					}
				})
			}
			wg.Wait()
			closeImage(t, img)
			checkClean(t, path)
			got := original(t, path)
			for off := int64(0); off < size; off += stripe {
				n := min(stripe, size-off)
				if d := models[off/stripe%workers].Diff(got[off:off+n], off); d != "" && off/stripe < size/stripe/workers*workers {
					t.Fatal(d)
				}
			}
		})
	}
}
