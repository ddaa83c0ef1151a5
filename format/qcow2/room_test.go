package qcow2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/zero"
	"github.com/cowl-disk/cowl/opts"
)

// holePage is the size of the pages of a smallDisk.
const holePage = 4096

// smallDisk is storage on a file system that has room for so many more pages.
type smallDisk struct {
	driver.Storage
	has   map[int64]bool // pages that have room
	pages int            // still free
}

// newSmallDisk puts s on a file system with so many free pages.
func newSmallDisk(t *testing.T, s driver.Storage, pages int) *smallDisk {
	t.Helper()
	d := &smallDisk{Storage: s, has: map[int64]bool{}, pages: pages}
	for off := int64(0); off < s.Size(); off += holePage {
		x, err := s.Map(context.Background(), off, holePage)
		if err != nil {
			t.Fatal(err)
		}
		d.has[off/holePage] = x.Kind == driver.ExtentData
	}
	return d
}

func (d *smallDisk) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	for page := off / holePage; page*holePage < off+int64(len(p)); page++ {
		if d.has[page] {
			continue
		}
		if d.pages == 0 {
			return 0, syscall.ENOSPC
		}
		d.pages--
		d.has[page] = true
	}
	return d.Storage.WriteAt(ctx, p, off)
}

// Resize takes no room.
func (d *smallDisk) Resize(ctx context.Context, size int64, o driver.ResizeOptions) error {
	return d.Storage.(driver.Resizer).Resize(ctx, size, o)
}

func (d *smallDisk) Map(_ context.Context, off, n int64) (driver.Extent, error) {
	if off >= d.Size() {
		return driver.Extent{}, nil
	}
	x := driver.Extent{Kind: driver.ExtentZero, Length: min(n, holePage-off%holePage, d.Size()-off)}
	if d.has[off/holePage] {
		x.Kind = driver.ExtentData
	}
	return x, nil
}

// TestFullDisk writes into images on file systems that get full, at every page of
// the room that all writes together take. What was acknowledged is there when the
// image is closed and opened again, and nothing leaks.
func TestFullDisk(t *testing.T) {
	testkit.NoRace(t, "one caller")
	ctx := context.Background()
	for name, c := range map[string]struct {
		options opts.Dict
		size    int64
		step    int64 // between writes
		n       int   // bytes of a write
		writes  int
		stride  int // pages between the limits that are tried
	}{
		"4k clusters":           {opts.Dict{"cluster_size": "4k"}, 16 << 20, 1<<20 + 4096, 8192, 15, 1},
		"default":               {opts.Dict{}, 2 << 30, 600 << 20, 64 << 10, 3, 1},
		"tables in holes":       {opts.Dict{}, 1 << 30, 40 << 20, 64 << 10, 5, 1},
		"version 2":             {opts.Dict{"cluster_size": "4k", "compat": "0.10"}, 16 << 20, 1<<20 + 4096, 5000, 15, 1},
		"lazy refcounts":        {opts.Dict{"cluster_size": "4k", "lazy_refcounts": "on"}, 16 << 20, 1<<20 + 4096, 8192, 15, 1},
		"subclusters":           {opts.Dict{"cluster_size": "16k", "extended_l2": "on"}, 64 << 20, 9<<20 + 512, 700, 7, 1},
		"refcount table grows":  {opts.Dict{"cluster_size": "512", "refcount_bits": "64"}, 8 << 20, 50 << 10, 33 << 10, 80, 13},
		"further refcount page": {opts.Dict{"cluster_size": "8k", "refcount_bits": "64"}, 64 << 20, 200 << 10, 160 << 10, 60, 97},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for pages, full := 0, true; full; pages += c.stride {
				full = fillDisk(ctx, t, c.options, c.size, c.step, c.n, c.writes, pages)
			}
		})
	}
}

// fillDisk makes writes with so many pages of room and says whether one failed.
func fillDisk(ctx context.Context, t *testing.T, options opts.Dict, size, step int64, n, writes, pages int) (full bool) {
	t.Helper()
	img, disk, open := memImage(t, options)
	if err := img.Resize(ctx, size, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	// One table is there before.
	if _, err := img.WriteAt(ctx, make([]byte, n), 0); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	// Tables that hold nothing lie in holes, as after a copy by cp --sparse.
	sparse(t, disk)
	img = open()
	im := img.Tree().Node().(*image)
	small := newSmallDisk(t, im.file, pages)
	im.file, im.data = small, small
	good := map[int]bool{}
	for i := range writes {
		_, err := img.WriteAt(ctx, bytes.Repeat([]byte{byte(i + 1)}, n), int64(i)*step)
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%d pages: write %d: %v", pages, i, err)
		}
		good[i] = err == nil
		full = full || err != nil
	}
	if err := img.Close(ctx); err != nil {
		t.Fatalf("%d pages: closing: %v", pages, err)
	}
	img = open()
	defer img.Close(ctx)
	for i := range writes {
		p := make([]byte, n)
		if _, err := img.ReadAt(ctx, p, int64(i)*step); err != nil {
			t.Fatalf("%d pages: reading: %v", pages, err)
		}
		if good[i] && !bytes.Equal(p, bytes.Repeat([]byte{byte(i + 1)}, n)) {
			t.Fatalf("%d pages: write %d was acknowledged and is lost", pages, i)
		}
	}
	mustBeClean(t, img, fmt.Sprintf("%d pages", pages))
	return full
}

// sparse punches holes where a disk holds zeroes.
func sparse(t *testing.T, disk interface {
	driver.Storage
	driver.Discarder
}) {
	t.Helper()
	ctx := context.Background()
	p := make([]byte, holePage)
	for off := int64(0); off+holePage <= disk.Size(); off += holePage {
		if _, err := disk.ReadAt(ctx, p, off); err != nil {
			t.Fatal(err)
		}
		if zero.IsZero(p) {
			if err := disk.Discard(ctx, off, holePage); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// mustBeClean fails the test if check finds anything.
func mustBeClean(t *testing.T, img *block.Image, where string) {
	t.Helper()
	var lines []string
	res, err := img.Tree().Node().(driver.Checker).Check(context.Background(), driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil)
	if err != nil || res.Corruptions+res.CheckErrors+res.Leaks != 0 {
		t.Fatalf("%s: check: %v %+v %q", where, err, res, lines[:min(len(lines), 10)])
	}
}
