package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestZeroPartOfCluster writes zeroes to a part of a cluster above a backing file. The
// cluster becomes one of zeroes if the rest of it reads as zeroes, otherwise it is copied.
func TestZeroPartOfCluster(t *testing.T) {
	const cluster, size = 64 << 10, 1<<20 + 512
	for _, c := range []struct {
		name     string
		in, n    int64 // what is zeroed in a cluster
		base     int64 // where the base has a byte in the cluster; -1: none
		own      int64 // where the image has one
		flags    driver.ZeroFlags
		wantZero bool
		wantErr  error
	}{
		{"all zero", 1024, 2048, -1, -1, 0, true, nil},
		{"what is overwritten", 1024, 512, 1100, -1, 0, true, nil},
		{"base before", 1024, 2048, 100, -1, 0, false, nil},
		{"base behind", 1024, 2048, 60000, -1, 0, false, nil},
		{"own before", 4096, 2048, -1, 100, 0, false, nil},
		{"own, overwritten", 4096, 2048, -1, 4096, 0, false, nil},
		{"no fallback", 4096, 2048, 100, -1, driver.ZeroNoFallback, false, driver.ErrUnsupported},
		{"to the end of the cluster", 512, cluster - 512, -1, -1, 0, true, nil},
	} {
		for _, at := range []int64{0, 5 * cluster} {
			t.Run(c.name, func(t *testing.T) {
				ctx, dir := t.Context(), t.TempDir()
				base, path := filepath.Join(dir, "base"), filepath.Join(dir, "top")
				create(t, base, size, "cluster_size=512")
				create(t, path, size, "backing_file=base", "backing_fmt=qcow2")
				want := make([]byte, size)
				put := func(path string, in int64) {
					if in < 0 {
						return
					}
					img := openImage(t, path, true)
					if _, err := img.WriteAt(ctx, []byte{7}, at+in); err != nil {
						t.Fatal(err)
					}
					closeImage(t, img)
					want[at+in] = 7
				}
				put(base, c.base)
				put(path, c.own)
				img := openImage(t, path, true)
				if err := img.WriteZeroes(ctx, at+c.in, c.n, c.flags); !errors.Is(err, c.wantErr) {
					t.Fatal(err)
				}
				if c.wantErr == nil {
					clear(want[at+c.in : at+c.in+c.n])
				}
				st, err := img.StatusLayer(ctx, at, cluster)
				if err != nil || st.Allocated != (c.wantErr == nil) || st.Allocated && st.Data == c.wantZero {
					t.Errorf("%+v %v", st, err)
				}
				if !bytes.Equal(readAll(t, img), want) {
					t.Error("the contents differ")
				}
				closeImage(t, img)
				checkClean(t, path)
			})
		}
	}
}

// TestZeroPartOfSubcluster does so in an image with extended L2 entries, at the end of the
// disk too.
func TestZeroPartOfSubcluster(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "a")
	const size = 1<<20 + 512
	create(t, path, size, "extended_l2=on")
	img := openImage(t, path, true)
	if _, err := img.WriteAt(ctx, []byte{1}, 0); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]int64{{100, 10}, {2048 + 100, 10}, {1 << 20, 100}} {
		if err := img.WriteZeroes(ctx, r[0], r[1], 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range []struct {
		off       int64
		allocated bool
		data      bool
	}{{0, true, true}, {2048, true, false}, {4096, false, false}, {1 << 20, true, false}} {
		st, err := img.StatusLayer(ctx, w.off, 512)
		if err != nil || st.Allocated != w.allocated || st.Data != w.data {
			t.Errorf("%d: %+v %v", w.off, st, err)
		}
	}
	if p := readAll(t, img); p[0] != 1 || !bytes.Equal(p[1:], make([]byte, size-1)) {
		t.Error("the contents differ")
	}
	closeImage(t, img)
	checkClean(t, path)
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "read -P 1 0 1", "-c", "read -P 0 1 1048575", path)
}

// TestZeroUnwrittenBesideWrite asks for a cluster of zeroes while a write to another part
// of it is under way: the write must not be lost.
func TestZeroUnwrittenBesideWrite(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "a")
	create(t, path, 1<<20)
	img := openImage(t, path, true)
	f := img.Tree().Node().(driver.Allocator)
	z := f.(driver.UnwrittenZeroer)
	w, err := f.Allocate(ctx, 0, 512)
	if err != nil {
		t.Fatal(err)
	}
	zeroed := make(chan error)
	go func() { zeroed <- z.ZeroUnwritten(ctx, 0, 64<<10, 0) }()
	if _, err := w.Child.WriteAt(ctx, bytes.Repeat([]byte{9}, 512), w.HostOffset); err != nil {
		t.Fatal(err)
	}
	if err := w.Pending.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	// The other order is possible, too: then the write makes data of the zeroes.
	if err := <-zeroed; err != nil && !errors.Is(err, driver.ErrUnsupported) {
		t.Fatal(err)
	}
	if err := z.ZeroUnwritten(ctx, 0, 64<<10, 0); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("a cluster with data is zeroed: %v", err)
	}
	if p := readAll(t, img); p[0] != 9 || p[511] != 9 || p[512] != 0 {
		t.Error("the contents differ")
	}
	closeImage(t, img)
	checkClean(t, path)
}
