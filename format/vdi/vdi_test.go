package vdi_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/vdi"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const mib = 1 << 20

// newLab returns a lab with an image called a.
func newLab(t *testing.T, size int64) *drivertest.Lab {
	t.Helper()
	l := drivertest.NewLab(t, vdi.New(), binary.LittleEndian)
	l.Create("a", size, opts.Dict{})
	return l
}

func fill(b byte) []byte { return bytes.Repeat([]byte{b}, mib) }

const table, count = 0x200, 0x184

// TestCheck damages an image in each way that check knows, and repairs it.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name         string
		damage       func(w *drivertest.Lab)
		lines        []string
		corrupt, lea int64
		lost         int // block that reads as zeroes after the repair, -1: none
	}{
		{"nothing", func(*drivertest.Lab) {}, nil, 0, 0, -1},
		{"twice", func(w *drivertest.Lab) { w.Poke("a", table+4, 4, 0) }, []string{"ERROR: block index 0 also used by 0"}, 1, 0, 1},
		{"too large", func(w *drivertest.Lab) { w.Poke("a", table+4, 4, 0xfffffff0) },
			[]string{"ERROR: block index 1 too large, is 4294967280", "ERROR: allocated blocks mismatch, is 2, should be 3"}, 1, 1, 1},
		{"beyond the end", func(w *drivertest.Lab) { w.Poke("a", table+4, 4, 7) }, []string{"ERROR: block index 1 too large, is 7", "ERROR: allocated blocks mismatch, is 2, should be 3"}, 1, 1, 1},
		{"behind the file", func(w *drivertest.Lab) { w.Poke("a", table+4, 4, 4) }, []string{"ERROR: block index 1 points after the end of the file, is 4"}, 1, 0, 1},
		{"count too low", func(w *drivertest.Lab) { w.Poke("a", count, 4, 1) }, []string{"ERROR: allocated blocks mismatch, is 3, should be 1"}, 1, 0, -1},
		{"count too high", func(w *drivertest.Lab) { w.Poke("a", count, 4, 5) }, []string{"ERROR: allocated blocks mismatch, is 3, should be 5"}, 0, 2, -1},
		{"lost block", func(w *drivertest.Lab) { w.Poke("a", table, 4, 0xffffffff) }, []string{"ERROR: allocated blocks mismatch, is 2, should be 3"}, 0, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newLab(t, 5*mib)
			img := w.Open("a")
			for i := range 3 {
				w.Write(img, int64(i)*mib, fill(byte(i+1)))
			}
			w.Close(img)
			c.damage(w)
			res, lines := w.Check("a", driver.CheckFix{})
			if res.Corruptions != c.corrupt || res.Leaks != c.lea || !slices.Equal(lines, c.lines) {
				t.Fatalf("%+v %q", res, lines)
			}
			if res, _ := w.Check("a", driver.CheckFix{Leaks: true, Errors: true}); res.CorruptionsFixed != c.corrupt || res.Corruptions != 0 || res.Leaks != 0 {
				t.Fatalf("repair: %+v", res)
			}
			if res, lines := w.Check("a", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 || len(lines) > 0 {
				t.Fatalf("after the repair: %+v %q", res, lines)
			}
			img = w.Open("a")
			for i := range 3 {
				want := fill(byte(i + 1))
				if i == c.lost {
					if want = make([]byte, mib); c.name == "twice" {
						want = fill(1) // its own data cannot be found again
					}
				}
				w.Want(img, int64(i)*mib, want)
			}
			// The copy of a block that was there twice is its own.
			w.Write(img, 0, fill(9))
			w.Want(img, 2*mib, fill(3))
			if c.name == "twice" {
				w.Want(img, mib, fill(1))
			}
			w.Close(img)
		})
	}
}

// TestGrowMovesBlocks: where the table has no room to grow, the first blocks move out
// of its way.
func TestGrowMovesBlocks(t *testing.T) {
	w := newLab(t, 6*mib)
	img := w.Open("a")
	for _, i := range []int{3, 0, 5} {
		w.Write(img, int64(i)*mib, fill(byte(i+1)))
	}
	if err := img.WriteZeroes(t.Context(), mib, mib, 0); err != nil {
		t.Fatal(err)
	}
	const large = 300 << 30 // 1.2 MiB of table
	if err := img.Resize(t.Context(), large, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Write(img, large-mib, fill(77))
	w.Close(img)
	if n := w.Peek("a", count, 4); n != 4 {
		t.Errorf("%d blocks are counted", n)
	}
	if res, lines := w.Check("a", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
		t.Errorf("%+v %q", res, lines)
	}
	img = w.Open("a")
	for i := range 6 {
		want := make([]byte, mib)
		if i == 0 || i == 3 || i == 5 {
			want = fill(byte(i + 1))
		}
		w.Want(img, int64(i)*mib, want)
	}
	w.Want(img, large-mib, fill(77))
	w.Want(img, large-2*mib, make([]byte, mib))
	if img.Size() != large {
		t.Errorf("size %d", img.Size())
	}
	if err := img.Resize(t.Context(), 4*mib, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Want(img, 3*mib, fill(4))
	w.Close(img)
	if n := w.Peek("a", count, 4); n != 2 {
		t.Errorf("%d blocks are counted after shrinking", n)
	}
}

// TestBlockSizes: images with other blocks than those of 1 MiB are read and written.
func TestBlockSizes(t *testing.T) {
	testkit.NoRace(t, "one goroutine works alone")
	for size, blocks := range map[uint32]uint64{4096: 100, 64 << 10: 100, 4 << 20: 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w := newLab(t, 0)
			w.Poke("a", 0x178, 4, uint64(size))
			w.Poke("a", 0x180, 4, blocks)
			w.Poke("a", 0x170, 4, uint64(size)*blocks)
			w.Poke("a", 0x158, 4, 8192) // data
			for i := range int64(blocks) {
				w.Poke("a", table+4*i, 4, 0xffffffff)
			}
			img := w.Open("a")
			m := testkit.NewModel(img.Size())
			r := testkit.Rand(3)
			for range 30 {
				p := make([]byte, 1+r.IntN(3*int(size)))
				testkit.Fill(r, p)
				off := r.Int64N(img.Size() - int64(len(p)))
				w.Write(img, off, p)
				m.Write(p, off)
			}
			w.Close(img)
			img = w.Open("a")
			defer w.Close(img)
			got := make([]byte, img.Size())
			if _, err := img.ReadAt(t.Context(), got, 0); err != nil {
				t.Fatal(err)
			}
			if d := m.Diff(got, 0); d != "" {
				t.Error(d)
			}
			if n := img.Limits().ClusterSize; n != int64(size) {
				t.Errorf("cluster size %d", n)
			}
		})
	}
}

// TestRefused: what cannot be worked with says why.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		off  int64
		v    uint32
		want string
	}{
		{0x40, 1, "image not in VDI format (bad signature 00000001)"},
		{0x44, 0x20003, "unsupported VDI image (version 2.3)"},
		{0x154, 0x201, "unsupported VDI image (unaligned block map offset 0x201)"},
		{0x158, 0x401, "unsupported VDI image (unaligned data offset 0x401)"},
		{0x158, 0x200, "the block map of 5 entries at 512 reaches into the data at 512"},
		{0x168, 4096, "unsupported VDI image (sector size 4096 is not 512)"},
		{0x178, 3 << 20, "unsupported VDI image (block size 3145728 is not 1048576)"},
		{0x180, 4, "unsupported VDI image (disk size 5242880, image bitmap has room for 4194304)"},
		{0x180, 0x7fffffff, "unsupported VDI image (too many blocks 2147483647, max is 536870784)"},
		{0x174, 0x7fffffff, "unsupported VDI image size (size is 0x7fffffff00500000, max supported is 0x1fffff8000000)"},
		{0x1a8, 1, "unsupported VDI image (non-NULL link UUID)"},
		{0x4c, 9, "unsupported VDI image (type 9)"},
	} {
		w := newLab(t, 5*mib)
		w.Poke("a", c.off, 4, uint64(c.v))
		img, err := w.TryOpen("a", block.OpenOptions{})
		if err == nil {
			w.Close(img)
			t.Errorf("%#x at %#x: opened", c.v, c.off)
			continue
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			err = e
		}
		if got := fmt.Sprint(err); !bytes.Contains([]byte(got), []byte(c.want)) {
			t.Errorf("%#x at %#x: %q, want %q", c.v, c.off, got, c.want)
		}
	}
}

// TestLarge: the largest image opens, reads and writes in little memory.
func TestLarge(t *testing.T) {
	const size = 0x1fffff8000000
	w := newLab(t, 1<<40)
	disk := w.Mem.Disk("a")
	// The table in a hole would say block 0 everywhere: only its ends are looked at.
	w.Poke("a", 0x180, 4, 536870784)
	w.Poke("a", 0x170, 4, size&0xffffffff)
	w.Poke("a", 0x174, 4, size>>32)
	w.Poke("a", 0x158, 4, 2048<<20)
	if err := disk.Resize(t.Context(), 2048<<20+mib, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	budget := &driver.Budget{MaxMemory: 4 << 20}
	img, err := w.TryOpen("a", block.OpenOptions{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close(img)
	if img.Size() != size {
		t.Errorf("size %d", img.Size())
	}
	w.Want(img, 0, make([]byte, 512))
	w.Want(img, size-4096, make([]byte, 4096))
}

// TestNonsense: a table in a hole names block 0 everywhere. Its check ends soon, in little
// memory, and a write finds that out, too.
func TestNonsense(t *testing.T) {
	testkit.NoRace(t, "one goroutine works alone")
	const blocks = 8 << 20
	w := newLab(t, mib)
	w.Poke("a", 0x180, 4, blocks)
	w.Poke("a", 0x170, 8, blocks*mib)
	w.Poke("a", 0x158, 4, 512<<20)
	if err := w.Mem.Disk("a").Resize(t.Context(), 513<<20, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Poke("a", table, 4, 0)
	img, err := w.TryOpen("a", block.OpenOptions{Use: block.Use{Check: true}, Budget: &driver.Budget{MaxMemory: 64 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close(img)
	lines := 0
	res, err := img.Tree().Node().(driver.Checker).Check(t.Context(), driver.CheckFix{}, func(string) { lines++ }, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.Corruptions < blocks-mib || lines > 1<<18+1 {
		t.Errorf("%+v, %d lines", res, lines)
	}
}

// TestNoBlockIsLost: other programs put new blocks where the count of the header says, so
// the count is written before the table.
func TestNoBlockIsLost(t *testing.T) {
	w := newLab(t, 8*mib)
	img := w.Open("a")
	w.Write(img, 0, fill(1))
	w.Mem.Disk("a").SetHook(func(op mem.Op, off, n int64) error {
		if op == mem.OpWrite && off == table && w.Peek("a", count, 4) < 1 {
			return errors.New("the table names a block that the header does not count")
		}
		return nil
	})
	if err := img.Flush(context.Background()); err != nil {
		t.Error(err)
	}
	w.Mem.Disk("a").SetHook(nil)
	w.Close(img)
}
