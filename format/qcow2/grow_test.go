package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// TestRefcountTableGrows writes more than the first refcount table can count.
func TestRefcountTableGrows(t *testing.T) {
	t.Parallel()
	testkit.NoRace(t, "one caller")
	for _, o := range [][]string{{"cluster_size=512"}, {"cluster_size=512", "refcount_bits=64"}, {"cluster_size=1k", "refcount_bits=64", "compat=1.1"}} {
		t.Run(fmt.Sprint(o), func(t *testing.T) {
			const size = 40 << 20
			path := filepath.Join(t.TempDir(), "a.qcow2")
			create(t, path, size, o...)
			img := openImage(t, path, true)
			want := make([]byte, size)
			testkit.Fill(testkit.Rand(5), want)
			for off := 0; off < size; off += 3 << 20 {
				end := min(size, off+3<<20)
				if _, err := img.WriteAt(context.Background(), want[off:end], int64(off)); err != nil {
					t.Fatal(err)
				}
			}
			// Room that is freed is used again: the file does not double.
			if err := img.Discard(context.Background(), 0, size/2); err != nil {
				t.Fatal(err)
			}
			if err := img.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := img.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			if _, err := img.WriteAt(context.Background(), want[:size/2], 0); err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, img); !bytes.Equal(got, want) {
				t.Fatal("content differs")
			}
			closeImage(t, img)
			checkClean(t, path)
			if st, err := os.Stat(path); err != nil || st.Size() > size*5/4 {
				t.Fatalf("file of %d bytes, %v", st.Size(), err)
			}
			if !bytes.Equal(original(t, path), want) {
				t.Fatal("QEMU reads other content")
			}
		})
	}
}

// TestFailingGrowth lets every change of the file fail once while the refcount
// table and the L1 table grow. The image must stay consistent.
func TestFailingGrowth(t *testing.T) {
	testkit.NoRace(t, "one caller")
	ctx := context.Background()
	const size = 9 << 20
	memory := mem.New().(*mem.Driver)
	reg := block.NewRegistry(qcow2.New(), memory)
	if err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:a", Format: "qcow2", Size: size, Options: opts.Dict{"cluster_size": "512"}, Gate: driver.AllowAll}); err != nil {
		t.Fatal(err)
	}
	open := func() *block.Image {
		img, err := block.Open(ctx, reg, block.Source{Filename: "mem:a", Format: "qcow2"}, openOpts(true))
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	img := open()
	want := make([]byte, size)
	testkit.Fill(testkit.Rand(5), want)
	const before = 15 << 19 // just short of what the first table counts
	if _, err := img.WriteAt(ctx, want[:before], 0); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	disk := memory.Disk("a")
	start := disk.Clone()
	injected := errors.New("injected")
	for fail := 1; ; fail++ {
		memory.Add("a", start.Clone())
		disk = memory.Disk("a")
		img := open()
		count, failed := 0, false
		disk.SetHook(func(op mem.Op, _, n int64) error {
			if op == mem.OpRead || n > 64<<10 {
				return nil
			}
			if count++; count == fail {
				failed = true
				return injected
			}
			return nil
		})
		var errs []error
		for _, f := range []func() error{
			func() error { _, err := img.WriteAt(ctx, want[before:], before); return err },
			func() error { return img.Resize(ctx, size+4<<20, driver.ResizeOptions{}) },
			func() error { return img.Flush(ctx) },
			func() error { return img.Close(ctx) },
		} {
			if err := f(); err != nil {
				errs = append(errs, err)
			}
		}
		disk.SetHook(nil)
		if !failed {
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			break
		}
		img2, err := block.Open(ctx, reg, block.Source{Filename: "mem:a", Format: "qcow2"}, block.OpenOptions{Use: block.Use{Check: true}, Gate: driver.AllowAll})
		if err != nil {
			t.Fatalf("change %d failed: %v; then opening: %v", fail, errs, err)
		}
		var lines []string
		res, err := img2.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil)
		if err != nil || res.Corruptions+res.CheckErrors != 0 {
			t.Fatalf("change %d failed: %v; then check: %+v %v %.3v", fail, errs, res, err, lines)
		}
		got := make([]byte, before)
		if _, err := img2.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, want[:before]) {
			t.Fatalf("change %d failed: %v; then flushed data differ: %v", fail, errs, err)
		}
		closeImage(t, img2)
	}
}

// TestResizePreallocation grows with every mode and compares with QEMU.
func TestResizePreallocation(t *testing.T) {
	t.Parallel()
	for _, mode := range []driver.Prealloc{driver.PreallocOff, driver.PreallocMetadata, driver.PreallocFalloc, driver.PreallocFull} {
		for _, o := range [][]string{nil, {"extended_l2=on"}, {"compat=0.10"}, {"cluster_size=4k"}} {
			t.Run(fmt.Sprint(mode, o), func(t *testing.T) {
				dir := t.TempDir()
				ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
				create(t, ours, 1<<20, o...)
				create(t, theirs, 1<<20, o...)
				img := openImage(t, ours, true)
				if err := img.Resize(context.Background(), 40<<20, driver.ResizeOptions{Prealloc: mode}); err != nil {
					t.Fatal(err)
				}
				closeImage(t, img)
				testkit.Run(t, "qemu-img", "resize", "-q", "-f", "qcow2", "--preallocation="+string(mode), theirs, "40M")
				checkClean(t, ours)
				testkit.Run(t, "qemu-img", "compare", ours, theirs)
				a, err := os.Stat(ours)
				if err != nil {
					t.Fatal(err)
				}
				b, err := os.Stat(theirs)
				if err != nil {
					t.Fatal(err)
				}
				if d := a.Size() - b.Size(); d > 1<<20 || d < -1<<20 {
					t.Errorf("our file has %d bytes, that of QEMU %d", a.Size(), b.Size())
				}
			})
		}
	}
}
