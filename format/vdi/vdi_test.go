package vdi_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/vdi"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const mib = 1 << 20

// world is a disk in memory with an image on it.
type world struct {
	t   *testing.T
	mem *mem.Driver
	reg *block.Registry
}

func newWorld(t *testing.T, size int64, o opts.Dict) *world {
	t.Helper()
	w := &world{t: t, mem: mem.New().(*mem.Driver)}
	w.reg = block.NewRegistry(vdi.New(), w.mem)
	if err := block.Create(t.Context(), w.reg, block.CreateRequest{Filename: "mem:a", Format: "vdi", Size: size, Options: o, Gate: driver.AllowAll}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) try(o block.OpenOptions) (*block.Image, error) {
	o.Gate = driver.AllowAll
	return block.Open(w.t.Context(), w.reg, block.Source{Filename: "mem:a", Format: "vdi"}, o)
}

func (w *world) open() *block.Image {
	w.t.Helper()
	img, err := w.try(block.OpenOptions{Write: true, Resize: true, Unmap: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return img
}

func (w *world) close(img *block.Image) {
	w.t.Helper()
	if err := img.Close(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) write(img *block.Image, off int64, p []byte) {
	w.t.Helper()
	if _, err := img.WriteAt(w.t.Context(), p, off); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) poke(off int64, v uint32) {
	w.t.Helper()
	if _, err := w.mem.Disk("a").WriteAt(w.t.Context(), binary.LittleEndian.AppendUint32(nil, v), off); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) peek(off int64) uint32 {
	w.t.Helper()
	var b [4]byte
	if _, err := w.mem.Disk("a").ReadAt(w.t.Context(), b[:], off); err != nil {
		w.t.Fatal(err)
	}
	return binary.LittleEndian.Uint32(b[:])
}

func (w *world) check(fix driver.CheckFix) (*driver.CheckResult, []string) {
	w.t.Helper()
	img, err := w.try(block.OpenOptions{Check: true, Write: fix != driver.CheckFix{}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer w.close(img)
	var lines []string
	res, err := img.Node().(driver.Checker).Check(w.t.Context(), fix, func(l string) { lines = append(lines, l) }, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, lines
}

func (w *world) want(img *block.Image, off int64, p []byte) {
	w.t.Helper()
	got := make([]byte, len(p))
	if _, err := img.ReadAt(w.t.Context(), got, off); err != nil && err != io.EOF {
		w.t.Fatal(err)
	}
	if !bytes.Equal(got, p) {
		w.t.Fatalf("other bytes at %d", off)
	}
}

func fill(b byte) []byte { return bytes.Repeat([]byte{b}, mib) }

const table, count = 0x200, 0x184

// TestCheck damages an image in each way that check knows, and repairs it.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name         string
		damage       func(w *world)
		lines        []string
		corrupt, lea int64
		lost         int // block that reads as zeroes after the repair, -1: none
	}{
		{"nothing", func(*world) {}, nil, 0, 0, -1},
		{"twice", func(w *world) { w.poke(table+4, 0) }, []string{"ERROR: block index 0 also used by 0"}, 1, 0, 1},
		{"too large", func(w *world) { w.poke(table+4, 0xfffffff0) },
			[]string{"ERROR: block index 1 too large, is 4294967280", "ERROR: allocated blocks mismatch, is 2, should be 3"}, 1, 1, 1},
		{"beyond the end", func(w *world) { w.poke(table+4, 7) }, []string{"ERROR: block index 1 points after the end of the file, is 7"}, 1, 0, 1},
		{"count too low", func(w *world) { w.poke(count, 1) }, []string{"ERROR: allocated blocks mismatch, is 3, should be 1"}, 1, 0, -1},
		{"count too high", func(w *world) { w.poke(count, 5) }, []string{"ERROR: allocated blocks mismatch, is 3, should be 5"}, 0, 2, -1},
		{"lost block", func(w *world) { w.poke(table, 0xffffffff) }, []string{"ERROR: allocated blocks mismatch, is 2, should be 3"}, 0, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 5*mib, opts.Dict{})
			img := w.open()
			for i := range 3 {
				w.write(img, int64(i)*mib, fill(byte(i+1)))
			}
			w.close(img)
			c.damage(w)
			res, lines := w.check(driver.CheckFix{})
			if res.Corruptions != c.corrupt || res.Leaks != c.lea || !slices.Equal(lines, c.lines) {
				t.Fatalf("%+v %q", res, lines)
			}
			if res, _ := w.check(driver.CheckFix{Leaks: true, Errors: true}); res.CorruptionsFixed != c.corrupt || res.Corruptions != 0 || res.Leaks != 0 {
				t.Fatalf("repair: %+v", res)
			}
			if res, lines := w.check(driver.CheckFix{}); res.Corruptions+res.Leaks != 0 || len(lines) > 0 {
				t.Fatalf("after the repair: %+v %q", res, lines)
			}
			img = w.open()
			for i := range 3 {
				want := fill(byte(i + 1))
				if i == c.lost {
					if want = make([]byte, mib); c.name == "twice" {
						want = fill(1) // its own data cannot be found again
					}
				}
				w.want(img, int64(i)*mib, want)
			}
			// The copy of a block that was there twice is its own.
			w.write(img, 0, fill(9))
			w.want(img, 2*mib, fill(3))
			if c.name == "twice" {
				w.want(img, mib, fill(1))
			}
			w.close(img)
		})
	}
}

// TestGrowMovesBlocks: where the table has no room to grow, the first blocks move out
// of its way.
func TestGrowMovesBlocks(t *testing.T) {
	w := newWorld(t, 6*mib, opts.Dict{})
	img := w.open()
	for _, i := range []int{3, 0, 5} {
		w.write(img, int64(i)*mib, fill(byte(i+1)))
	}
	if err := img.WriteZeroes(t.Context(), mib, mib, 0); err != nil {
		t.Fatal(err)
	}
	const large = 300 << 30 // 1.2 MiB of table
	if err := img.Resize(t.Context(), large, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	w.write(img, large-mib, fill(77))
	w.close(img)
	if n := w.peek(count); n != 4 {
		t.Errorf("%d blocks are counted", n)
	}
	if res, lines := w.check(driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
		t.Errorf("%+v %q", res, lines)
	}
	img = w.open()
	for i := range 6 {
		want := make([]byte, mib)
		if i == 0 || i == 3 || i == 5 {
			want = fill(byte(i + 1))
		}
		w.want(img, int64(i)*mib, want)
	}
	w.want(img, large-mib, fill(77))
	w.want(img, large-2*mib, make([]byte, mib))
	if img.Size() != large {
		t.Errorf("size %d", img.Size())
	}
	if err := img.Resize(t.Context(), 4*mib, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	w.want(img, 3*mib, fill(4))
	w.close(img)
	if n := w.peek(count); n != 2 {
		t.Errorf("%d blocks are counted after shrinking", n)
	}
}

// TestBlockSizes: images with other blocks than those of 1 MiB are read and written.
func TestBlockSizes(t *testing.T) {
	for _, size := range []uint32{4096, 64 << 10, 4 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w := newWorld(t, 0, opts.Dict{})
			const blocks = 100
			w.poke(0x178, size)
			w.poke(0x180, blocks)
			w.poke(0x170, size*blocks)
			w.poke(0x158, 8192) // data
			for i := range int64(blocks) {
				w.poke(table+4*i, 0xffffffff)
			}
			img := w.open()
			m := testkit.NewModel(img.Size())
			r := testkit.Rand(3)
			for range 30 {
				p := make([]byte, 1+r.IntN(3*int(size)))
				testkit.Fill(r, p)
				off := r.Int64N(img.Size() - int64(len(p)))
				w.write(img, off, p)
				m.Write(p, off)
			}
			w.close(img)
			img = w.open()
			defer w.close(img)
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
		w := newWorld(t, 5*mib, opts.Dict{})
		w.poke(c.off, c.v)
		img, err := w.try(block.OpenOptions{})
		if err == nil {
			w.close(img)
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
	w := newWorld(t, 1<<40, opts.Dict{})
	disk := w.mem.Disk("a")
	// The table in a hole would say block 0 everywhere: only its ends are looked at.
	w.poke(0x180, 536870784)
	w.poke(0x170, size&0xffffffff)
	w.poke(0x174, size>>32)
	w.poke(0x158, 2048<<20)
	if err := disk.Resize(t.Context(), 2048<<20+mib, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	budget := &driver.Budget{MaxMemory: 4 << 20}
	img, err := w.try(block.OpenOptions{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close(img)
	if img.Size() != size {
		t.Errorf("size %d", img.Size())
	}
	w.want(img, 0, make([]byte, 512))
	w.want(img, size-4096, make([]byte, 4096))
}

// TestNoBlockIsLost: other programs put new blocks where the count of the header says, so
// the count is written before the table.
func TestNoBlockIsLost(t *testing.T) {
	w := newWorld(t, 8*mib, opts.Dict{})
	img := w.open()
	w.write(img, 0, fill(1))
	w.mem.Disk("a").SetHook(func(op mem.Op, off, n int64) error {
		if op == mem.OpWrite && off == table && w.peek(count) < 1 {
			return errors.New("the table names a block that the header does not count")
		}
		return nil
	})
	if err := img.Flush(context.Background()); err != nil {
		t.Error(err)
	}
	w.mem.Disk("a").SetHook(nil)
	w.close(img)
}
