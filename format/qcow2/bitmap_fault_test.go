package qcow2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

const faultGranule = 4096

// faultBitmaps makes an image with bitmaps that are stored.
func faultBitmaps(t *testing.T, options opts.Dict) func() *block.Image {
	t.Helper()
	ctx := context.Background()
	img, _, open := memImage(t, options)
	for _, name := range []string{"records", "rests", "goes"} {
		if err := img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: name, Granularity: faultGranule, Disabled: name == "rests"}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := img.WriteAt(ctx, bytes.Repeat([]byte{1}, 40<<10), 16<<10)
	if err = errors.Join(err, img.Bitmaps().Set(ctx, "rests", 512<<10, 1), img.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	return open
}

// TestBitmapFaults lets each write and flush of a session fail, once or for good.
// Whoever opens the image next finds bitmaps that are true, or known not to be.
func TestBitmapFaults(t *testing.T) {
	testkit.NoRace(t, "one caller")
	ctx := context.Background()
	sessions := map[string]func(img *block.Image) error{
		"write": func(img *block.Image) error {
			_, err := img.WriteAt(ctx, bytes.Repeat([]byte{2}, 100<<10), 200<<10)
			return err
		},
		"write again": func(img *block.Image) error {
			_, err := img.WriteAt(ctx, bytes.Repeat([]byte{2}, 8<<10), 20<<10)
			return err
		},
		"change": func(img *block.Image) error {
			_, err := img.WriteAt(ctx, []byte("written"), 900<<10)
			return errors.Join(err, img.Bitmaps().Set(ctx, "rests", 0, 1), img.Bitmaps().Clear(ctx, "records"), img.Bitmaps().Remove(ctx, "goes"),
				img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: "new"}))
		},
		"enable": func(img *block.Image) error {
			err := img.Bitmaps().Enable(ctx, "rests", true)
			_, werr := img.WriteAt(ctx, []byte("written"), 512<<10)
			return errors.Join(err, werr)
		},
		"resize": func(img *block.Image) error { return img.Resize(ctx, 3<<20, driver.ResizeOptions{}) },
		"shrink": func(img *block.Image) error { return img.Resize(ctx, 300<<10, driver.ResizeOptions{}) },
		"remove": func(img *block.Image) error {
			return errors.Join(img.Bitmaps().Remove(ctx, "records"), img.Bitmaps().Remove(ctx, "rests"), img.Bitmaps().Remove(ctx, "goes"))
		},
	}
	for name, session := range sessions {
		for _, options := range []opts.Dict{{"cluster_size": "4k"}, {"cluster_size": "512", "lazy_refcounts": "on"}} {
			for _, bad := range []int{1, 1 << 30} {
				failed := true
				for good := 0; failed; good++ {
					if !testkit.Sample(good, 3) {
						continue
					}
					where := fmt.Sprintf("%s, %v, %d calls fail after %d", name, options, bad, good)
					open := faultBitmaps(t, options.Clone())
					img := open()
					was := make([]byte, 1<<20)
					if _, err := img.ReadAt(ctx, was, 0); err != nil {
						t.Fatal(err)
					}
					im := img.Tree().Node().(*image)
					f := &failing{Storage: im.file, good: good, bad: bad}
					im.file, im.data = f, f
					err := session(img)
					failed = errors.Join(err, img.Close(ctx)) != nil
					if failed && f.bad == bad {
						t.Fatalf("%s: failed without a fault: %v", where, err)
					}
					judgeFaults(t, where, open(), was, name, failed)
				}
			}
		}
	}
}

func judgeFaults(t *testing.T, where string, img *block.Image, was []byte, session string, failed bool) {
	t.Helper()
	ctx := context.Background()
	now := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, now, 0); err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	list, _, err := img.Bitmaps().List(ctx)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	for _, b := range list {
		if b.Inconsistent && !failed {
			t.Fatalf("%s: bitmap %s is inconsistent", where, b.Name)
		}
		if b.Inconsistent || b.Name != "records" && b.Name != "goes" {
			continue
		}
		if session == "change" && b.Name == "records" && b.Dirty == 0 {
			continue // it was cleared after all that changed
		}
		for off := 0; off < min(len(was), len(now)); off += faultGranule {
			end := min(off+faultGranule, len(was), len(now))
			if bytes.Equal(was[off:end], now[off:end]) {
				continue
			}
			if _, dirty, err := img.Bitmaps().Extent(ctx, b.Name, int64(off), 1); err != nil || !dirty {
				t.Fatalf("%s: bitmap %s misses a write at %d: %v", where, b.Name, off, err)
			}
		}
	}
	var lines []string
	if _, err := img.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil); err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	for _, l := range lines {
		if !strings.HasPrefix(l, "Leaked") || !failed {
			t.Fatalf("%s: check finds %q", where, l)
		}
	}
	if err := img.Close(ctx); err != nil {
		t.Fatalf("%s: %v", where, err)
	}
}

// TestBitmapsBesideWrites changes bitmaps while others write: nothing that was
// written after a bitmap was cleared is missing from it.
func TestBitmapsBesideWrites(t *testing.T) {
	ctx := context.Background()
	img, _, open := memImage(t, opts.Dict{"cluster_size": "4k"})
	for i := range 3 {
		if err := img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: fmt.Sprint("b", i), Granularity: 512 << i}); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for g := range int64(4) {
		wg.Go(func() {
			r := testkit.Rand(uint64(g))
			p := make([]byte, 3000)
			for range 200 {
				off := g<<18 + r.Int64N(1<<18-3000)
				var err error
				switch r.IntN(3) {
				case 0:
					_, err = img.WriteAt(ctx, p, off)
				case 1:
					err = img.WriteZeroes(ctx, off&^4095, 4096, driver.ZeroMayUnmap)
				case 2:
					err = img.Discard(ctx, off&^4095, 4096)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 100 {
			err := errors.Join(img.Bitmaps().Clear(ctx, "b0"), img.Bitmaps().Enable(ctx, "b1", i%2 == 0), img.Bitmaps().Set(ctx, "b2", 0, 1<<20))
			_, _, e := img.Bitmaps().Extent(ctx, "b0", 0, 1<<20)
			if err = errors.Join(err, e); err != nil {
				t.Error(err)
			}
			if i%10 == 9 {
				err = errors.Join(img.Bitmaps().Remove(ctx, "b2"), img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: "b2"}), img.Resize(ctx, int64(1+i/10%2)<<20, driver.ResizeOptions{}))
				if i/10%2 == 0 && err != nil {
					t.Error(err)
				}
			}
			if _, _, err := img.Bitmaps().List(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := img.Bitmaps().Clear(ctx, "b0"); err != nil {
		t.Fatal(err)
	}
	wg = sync.WaitGroup{}
	for g := range int64(4) {
		wg.Go(func() {
			for i := range int64(50) {
				if _, err := img.WriteAt(ctx, []byte{1}, g<<18+i*1000); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, again := range []bool{false, true} {
		if again {
			if err := img.Close(ctx); err != nil {
				t.Fatal(err)
			}
			img = open()
		}
		for g := range int64(4) {
			for i := range int64(50) {
				if _, dirty, err := img.Bitmaps().Extent(ctx, "b0", g<<18+i*1000, 1); err != nil || !dirty {
					t.Fatalf("%d is not dirty: %v", g<<18+i*1000, err)
				}
			}
		}
		if _, dirty, _ := img.Bitmaps().Extent(ctx, "b0", 100_000, 1); dirty {
			t.Fatal("what was not written is dirty")
		}
	}
	_ = img.Close(ctx)
}

// TestBitmapExtraData keeps what is not known, if the image says that the bitmap may
// be used.
func TestBitmapExtraData(t *testing.T) {
	ctx := context.Background()
	img, disk, open := memImage(t, opts.Dict{})
	if err := errors.Join(img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: "a name"}), img.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	// directory returns the first bitmap on disk.
	directory := func(im *image) ondisk.Bitmap {
		t.Helper()
		p := make([]byte, im.bitmapsExt.DirectorySize)
		_, err := disk.ReadAt(ctx, p, int64(im.bitmapsExt.DirectoryOffset))
		if err != nil {
			t.Fatal(err)
		}
		list, err := ondisk.DecodeBitmapDirectory(p, 1)
		if err != nil {
			t.Fatal(err)
		}
		return list[0]
	}
	edit := func(flags uint32) {
		t.Helper()
		img := open()
		im := img.Tree().Node().(*image)
		e := directory(im)
		e.Flags, e.Extra = flags, []byte("extra")
		dir := e.Append(nil)
		if _, err := disk.WriteAt(ctx, dir, int64(im.bitmapsExt.DirectoryOffset)); err != nil {
			t.Fatal(err)
		}
		im.bitmapsExt.DirectorySize = uint64(len(dir))
		if err := errors.Join(im.writeBitmapsExtension(ctx, im.bitmapsExt), img.Close(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	edit(ondisk.BitmapExtraCompatible | ondisk.BitmapAuto)
	img = open()
	_, err := img.WriteAt(ctx, []byte{1}, 0)
	if err := errors.Join(err, img.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	img = open()
	b := directory(img.Tree().Node().(*image))
	if string(b.Extra) != "extra" || b.Flags != ondisk.BitmapExtraCompatible|ondisk.BitmapAuto || b.Name != "a name" {
		t.Fatalf("%+v", b)
	}
	if _, dirty, err := img.Bitmaps().Extent(ctx, "a name", 0, 1); err != nil || !dirty {
		t.Fatal("the write is missing", err)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	edit(ondisk.BitmapAuto)
	check := func(err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "bitmap extra data is not supported") {
			t.Fatal(err)
		}
	}
	_, err = new(Driver).Open(ctx, &driver.OpenRequest{Name: "x", File: disk, Env: testEnv(), Access: driver.Access{Write: true}})
	check(err)
	// Who only reads goes on without bitmaps.
	n, err := new(Driver).Open(ctx, &driver.OpenRequest{Name: "x", File: disk, Env: testEnv()})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = n.(*image).BitmapExtent(ctx, "a name", 0, 1)
	check(err)
}
