package qed_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/qed"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// Where things lie in the images of newLab: the L1 table in clusters 1 and 2, the L2 table in
// 3 and 4, and the clusters of the disk from 5 on.
const (
	cluster = 4096
	l2      = 3 * cluster
)

func newLab(t *testing.T) *drivertest.Lab {
	t.Helper()
	l := drivertest.NewLab(t, qed.New(), binary.LittleEndian, raw.New())
	l.Create("a", 64*cluster, opts.Dict{"cluster_size": "4096", "table_size": "2"})
	img := l.Open("a")
	for i := range 4 {
		l.Write(img, int64(i)*cluster, fill(byte(i+1)))
	}
	l.Close(img)
	return l
}

func fill(b byte) []byte { return bytes.Repeat([]byte{b}, cluster) }

// TestCheck damages an image in each way that check knows, and repairs it.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name           string
		damage         func(l *drivertest.Lab)
		corrupt, leaks int64
		want           [4]byte // what the clusters are full of after the repair
	}{
		{"nothing", func(*drivertest.Lab) {}, 0, 0, [4]byte{1, 2, 3, 4}},
		{"twice", func(l *drivertest.Lab) { l.Poke("a", l2+8, 8, 5*cluster) }, 1, 1, [4]byte{1, 1, 3, 4}},
		{"unaligned", func(l *drivertest.Lab) { l.Poke("a", l2+8, 8, 5*cluster+512) }, 1, 1, [4]byte{1, 0, 3, 4}},
		{"beyond the end", func(l *drivertest.Lab) { l.Poke("a", l2+8, 8, 500*cluster) }, 1, 1, [4]byte{1, 0, 3, 4}},
		{"lost", func(l *drivertest.Lab) { l.Poke("a", l2+8, 8, 0) }, 0, 1, [4]byte{1, 0, 3, 4}},
		{"table beyond the end", func(l *drivertest.Lab) { l.Poke("a", cluster+8, 8, 1000*cluster) }, 1, 0, [4]byte{1, 2, 3, 4}},
		{"end not in use", func(l *drivertest.Lab) {
			if _, err := l.Mem.Disk("a").WriteAt(t.Context(), fill(9), 20*cluster); err != nil {
				t.Fatal(err)
			}
		}, 0, 12, [4]byte{1, 2, 3, 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			c.damage(l)
			if c.name == "table beyond the end" {
				l.Poke("a", 48, 8, 1024*cluster+512) // the disk has a second table
			}
			res, _ := l.Check("a", driver.CheckFix{})
			if res.Corruptions != c.corrupt || res.Leaks != c.leaks {
				t.Fatalf("%+v", res)
			}
			if res, _ = l.Check("a", driver.CheckFix{Leaks: true, Errors: true}); res.CorruptionsFixed != c.corrupt || res.Corruptions+res.Leaks != 0 {
				t.Fatalf("repair: %+v", res)
			}
			if res, _ = l.Check("a", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
				t.Fatalf("after the repair: %+v", res)
			}
			img := l.Open("a")
			for i, b := range c.want {
				l.Want(img, int64(i)*cluster, fill(b))
			}
			l.Write(img, 0, fill(9))
			l.Want(img, cluster, fill(c.want[1])) // its own
			l.Close(img)
		})
	}
}

// TestNeedCheck: the bit is on the disk before the first table is, an image that has it is
// repaired when it is opened for writing, and only then.
func TestNeedCheck(t *testing.T) {
	const features, bit = 16, 2
	l := newLab(t)
	img := l.Open("a")
	l.Mem.Disk("a").SetHook(func(op mem.Op, off, _ int64) error {
		if op == mem.OpWrite && off >= cluster && l.Peek("a", features, 8)&bit == 0 {
			return errors.New("a change before the need-check bit")
		}
		return nil
	})
	l.Write(img, 10*cluster, fill(5))
	if err := img.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := l.Mem.Disk("a").Clone() // as a crash leaves it
	l.Mem.Disk("a").SetHook(nil)
	l.Close(img)
	if l.Peek("a", features, 8)&bit != 0 {
		t.Error("an image that was closed needs a check")
	}
	left.SetHook(nil)
	l.Mem.Add("a", left)
	l.Poke("a", l2+8, 8, 5*cluster) // damage
	img, err := l.TryOpen("a", block.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l.Close(img)
	if l.Peek("a", features, 8)&bit == 0 || l.Peek("a", l2+8, 8) != 5*cluster {
		t.Error("opening for reading changed the image")
	}
	l.Close(l.Open("a"))
	if l.Peek("a", features, 8)&bit != 0 || l.Peek("a", l2+8, 8) == 5*cluster {
		t.Error("opening for writing did not repair the image")
	}
}

// TestBrokenStaysBroken: what a repair leaves is not called clean. Two entries of the L1
// table for one L2 table are not repaired.
func TestBrokenStaysBroken(t *testing.T) {
	l := newLab(t)
	l.Poke("a", 48, 8, 1024*cluster+512)
	l.Poke("a", cluster+8, 8, l2)
	l.Poke("a", 16, 8, 2)
	l.Close(l.Open("a"))
	if res, _ := l.Check("a", driver.CheckFix{}); res.Corruptions != 2 {
		t.Errorf("%+v", res)
	}
	if l.Peek("a", 16, 8)&2 == 0 {
		t.Error("a broken image is called clean")
	}
}

// TestRefused: what cannot be worked with says why.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		off   int64
		width int
		v     uint64
		want  string
	}{
		{0, 4, 1, "image not in QED format"},
		{4, 4, 5000, "QED cluster size is invalid"},
		{8, 4, 3, "QED table size is invalid"},
		{16, 8, 1 << 40, "unsupported QED features: 10000000000"},
		{48, 8, 1000, "QED image size is invalid"},
		{48, 8, 1 << 60, "QED image size is invalid"},
		{40, 8, 4097, "QED table offset is invalid"},
		{40, 8, 1 << 40, "QED table offset is invalid"},
		{12, 4, 1 << 31, "QED table offset is invalid"},
	} {
		l := newLab(t)
		l.Poke("a", c.off, c.width, c.v)
		img, err := l.TryOpen("a", block.OpenOptions{})
		if err == nil {
			l.Close(img)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%#x at %d: %v, want %q", c.v, c.off, err, c.want)
		}
	}
}

// TestChangeBackingWhole: whenever the change of the backing file is cut off, the image
// names the old one or the new one.
func TestChangeBackingWhole(t *testing.T) {
	l := drivertest.NewLab(t, qed.New(), binary.LittleEndian, raw.New())
	names := []string{"mem:base", "mem:" + strings.Repeat("long", 200)}
	for _, n := range names {
		l.Mem.Add(strings.TrimPrefix(n, "mem:"), mem.NewDisk(1<<20))
	}
	l.Create("a", 1<<20, opts.Dict{"backing_file": names[0], "backing_fmt": "raw"})
	disk := l.Mem.Disk("a")
	for i := range 6 {
		img := l.Open("a")
		disk.SetHook(func(op mem.Op, _, _ int64) error {
			if op == mem.OpRead {
				return nil
			}
			left := disk.Clone() // as a crash before this change leaves it
			left.SetHook(nil)
			l.Mem.Add("left", left)
			crashed, err := l.TryOpen("left", block.OpenOptions{})
			if err != nil {
				t.Errorf("change %d: %v", i, err)
				return nil
			}
			if name := crashed.Backing().Filename(); name != names[0] && name != names[1] {
				t.Errorf("change %d: the backing file is %q", i, name)
			}
			l.Close(crashed)
			return nil
		})
		if err := img.ChangeBacking(t.Context(), driver.BackingRef{Filename: names[(i+1)%2], Format: "raw"}); err != nil {
			t.Fatal(err)
		}
		disk.SetHook(nil)
		l.Close(img)
	}
}
