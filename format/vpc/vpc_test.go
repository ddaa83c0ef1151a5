package vpc_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/vpc"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

const (
	mib   = 1 << 20
	table = 1536
	size  = 10 * mib
)

func fill(b byte) []byte { return bytes.Repeat([]byte{b}, mib) }

// newLab returns a lab with a dynamic disk called a, whose first two MiB are full of 1 and 2.
func newLab(t *testing.T, o opts.Dict) *drivertest.Lab {
	t.Helper()
	l := drivertest.NewLab(t, vpc.New(), binary.BigEndian)
	o["force_size"] = "on"
	l.Create("a", size, o)
	img := l.Open("a")
	l.Write(img, 0, fill(1))
	l.Write(img, mib, fill(2))
	l.Write(img, 4*mib, fill(3))
	l.Close(img)
	return l
}

func (w world) end() int64 { return w.Mem.Disk("a").Size() - 512 }

type world struct{ *drivertest.Lab }

// TestFooters: either copy of the footer will do, also one of 511 bytes.
func TestFooters(t *testing.T) {
	for _, c := range []struct {
		name   string
		o      opts.Dict
		damage func(l world)
		fails  string
	}{
		{"front zeroed", opts.Dict{}, func(l world) { l.Poke("a", 0, 8, 0) }, ""},
		{"front checksum", opts.Dict{}, func(l world) { l.Poke("a", 64, 4, 1) }, ""},
		{"end zeroed", opts.Dict{}, func(l world) { l.Poke("a", l.end(), 8, 0) }, ""},
		{"end checksum", opts.Dict{}, func(l world) { l.Poke("a", l.end()+64, 4, 1) }, ""},
		{"both checksums", opts.Dict{}, func(l world) { l.Poke("a", 64, 4, 1); l.Poke("a", l.end()+64, 4, 1) }, "incorrect header checksum"},
		{"both zeroed", opts.Dict{}, func(l world) { l.Poke("a", 0, 8, 0); l.Poke("a", l.end(), 8, 0) }, "invalid VPC image"},
		{"fixed", opts.Dict{"subformat": "fixed"}, func(world) {}, ""},
		{"fixed, checksum", opts.Dict{"subformat": "fixed"}, func(l world) { l.Poke("a", l.end()+64, 4, 1) }, "incorrect header checksum"},
		{"fixed, 511 bytes", opts.Dict{"subformat": "fixed"}, func(l world) {
			if err := l.Mem.Disk("a").Resize(t.Context(), l.end()+511, driver.ResizeOptions{}); err != nil {
				t.Fatal(err)
			}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := world{newLab(t, c.o)}
			c.damage(l)
			img, err := l.TryOpen("a", block.OpenOptions{})
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("%v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			l.Want(img, mib, fill(2))
			l.Close(img)
			if c.o["subformat"] != nil || c.name == "nothing" {
				return
			}
			res, lines := l.Check("a", driver.CheckFix{})
			if res.Corruptions+res.Leaks != 1 || len(lines) != 1 {
				t.Errorf("%+v %q", res, lines)
			}
			if res, _ = l.Check("a", driver.CheckFix{Leaks: true, Errors: true}); res.CorruptionsFixed+res.LeaksFixed != 1 {
				t.Errorf("repair: %+v", res)
			}
			if res, lines = l.Check("a", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
				t.Errorf("after the repair: %+v %q", res, lines)
			}
		})
	}
}

// TestTableRepair: a block that is there twice gets a copy, and what lies behind the end is
// given up.
func TestTableRepair(t *testing.T) {
	l := newLab(t, opts.Dict{})
	l.Poke("a", table+4, 4, l.Peek("a", table, 4))
	l.Poke("a", table+8, 4, 0x7fffffff)
	if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions != 2 || len(lines) != 2 {
		t.Errorf("%+v %q", res, lines)
	}
	if res, _ := l.Check("a", driver.CheckFix{Leaks: true, Errors: true}); res.CorruptionsFixed != 2 || res.Corruptions != 0 {
		t.Errorf("repair: %+v", res)
	}
	if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions != 0 {
		t.Errorf("after the repair: %+v %q", res, lines)
	}
	img := l.Open("a")
	l.Want(img, 2*mib, fill(1))
	l.Write(img, 0, fill(9))
	l.Want(img, 2*mib, fill(1))
	l.Close(img)
}

// TestAlignment: the data of blocks lies at multiples of 4 KiB.
func TestAlignment(t *testing.T) {
	l := newLab(t, opts.Dict{})
	img := l.Open("a")
	defer l.Close(img)
	for _, off := range []int64{0, 4 * mib} {
		st, err := img.Status(t.Context(), off, 1, nil)
		if err != nil || !st.HasOffset || st.Offset%4096 != 0 {
			t.Errorf("%+v, %v", st, err)
		}
	}
}

// TestBitmapIsFilled: a sector that other programs left out is there once it is written.
func TestBitmapIsFilled(t *testing.T) {
	l := newLab(t, opts.Dict{})
	bitmap := int64(l.Peek("a", table, 4)) * 512
	l.Poke("a", bitmap, 4, 0xffff0000)
	img := l.Open("a")
	l.Write(img, 512, []byte{7})
	l.Close(img)
	if got := l.Peek("a", bitmap, 4); got != 0xffffffff {
		t.Errorf("the bitmap begins with %#x", got)
	}
}

// makeDiff turns the disk called a into the parent of one called b, which has some sectors of
// its own. It returns what b shows.
func makeDiff(t *testing.T, l *drivertest.Lab) *testkit.Model {
	t.Helper()
	l.Create("b", size, opts.Dict{"force_size": "on"})
	img := l.Open("b")
	own := bytes.Repeat([]byte{0xbb}, 2*mib)
	l.Write(img, 0, own)
	l.Close(img)
	b := l.Mem.Disk("b")
	id := make([]byte, 16)
	if _, err := l.Mem.Disk("a").ReadAt(t.Context(), id, 68); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 1536)
	if _, err := b.ReadAt(t.Context(), head, 0); err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(head[60:], 4)
	copy(head[512+40:], id)
	copy(head[512+576:], "W2ru")
	name := []byte(".\x00\\\x00a\x00")
	where := b.Size()
	binary.BigEndian.PutUint32(head[512+576+4:], 512)
	binary.BigEndian.PutUint32(head[512+576+8:], uint32(len(name)))
	binary.BigEndian.PutUint64(head[512+576+16:], uint64(where))
	sum := func(p []byte, at int) {
		var s uint32
		for i, c := range p {
			if i < at || i >= at+4 {
				s += uint32(c)
			}
		}
		binary.BigEndian.PutUint32(p[at:], ^s)
	}
	sum(head[:512], 64)
	sum(head[512:], 36)
	bitmap := int64(l.Peek("b", table, 4)) * 512
	bits := make([]byte, 512)
	r := testkit.Rand(1)
	testkit.Fill(r, bits[:300])
	for i := range bits[100:200] {
		bits[100+i] = 0xff * byte(i/30%2)
	}
	m := testkit.NewModel(size)
	m.Write(fill(1), 0)
	m.Write(fill(2), mib)
	m.Write(fill(3), 4*mib)
	for i := range 4096 {
		if bits[i/8]>>(7-i%8)&1 != 0 {
			m.Write(own[:512], int64(i)*512)
		}
	}
	for off, p := range map[int64][]byte{0: head, where: append(name, make([]byte, 512-len(name))...), where + 512: head[:512], bitmap: bits} {
		if _, err := b.WriteAt(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// TestDifferencing: sectors that the bitmap leaves out are those of the parent, before and
// after random changes.
func TestDifferencing(t *testing.T) {
	l := newLab(t, opts.Dict{})
	m := makeDiff(t, l)
	compare := func(img *block.Image) {
		t.Helper()
		got := make([]byte, size)
		if _, err := img.ReadAt(t.Context(), got, 0); err != nil {
			t.Fatal(err)
		}
		if d := m.Diff(got, 0); d != "" {
			t.Fatal(d)
		}
	}
	img := l.Open("b")
	compare(img)
	r := testkit.Rand(5)
	for i := range 40 {
		off := r.Int64N(size - 100<<10)
		p := make([]byte, 1+r.IntN(100<<10))
		if i%3 == 0 {
			if err := img.WriteZeroes(t.Context(), off, int64(len(p)), 0); err != nil {
				t.Fatal(err)
			}
		} else {
			testkit.Fill(r, p)
			l.Write(img, off, p)
		}
		m.Write(p, off)
	}
	compare(img)
	l.Close(img)
	img = l.Open("b")
	compare(img)
	l.Close(img)
	if res, lines := l.Check("b", driver.CheckFix{}); res.Corruptions != 0 {
		t.Errorf("%+v %q", res, lines)
	}
	img = l.Open("a")
	l.Want(img, mib, fill(2)) // the parent is as it was
	l.Close(img)
}

// TestDifferencingGrows: blocks that make room for the table keep the bitmaps of what they
// have, and what names the parent stays whole: at the end of the file or behind the table.
func TestDifferencingGrows(t *testing.T) {
	for _, behindTable := range []bool{false, true} {
		l := newLab(t, opts.Dict{})
		m := makeDiff(t, l)
		if behindTable { // where Windows has it
			at := int64(table + 512)
			b := make([]byte, 512)
			if _, err := l.Mem.Disk("b").ReadAt(t.Context(), b, int64(l.Peek("b", 512+576+16, 8))); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Mem.Disk("b").WriteAt(t.Context(), b, at); err != nil {
				t.Fatal(err)
			}
			l.Poke("b", 512+576+16, 8, uint64(at))
		}
		img := l.Open("b")
		const large = 3 << 30
		if err := img.Resize(t.Context(), large, driver.ResizeOptions{}); err != nil {
			t.Fatal(err)
		}
		l.Write(img, large-mib, fill(8))
		l.Close(img)
		img = l.Open("b")
		got := make([]byte, size)
		if _, err := img.ReadAt(t.Context(), got, 0); err != nil {
			t.Fatal(err)
		}
		if d := m.Diff(got, 0); d != "" {
			t.Fatal(d)
		}
		l.Want(img, large-mib, fill(8))
		l.Close(img)
	}
}

// TestCreateDifferencing: a new image on top of another one shows what that has.
func TestCreateDifferencing(t *testing.T) {
	l := newLab(t, opts.Dict{})
	l.Create("b", size, opts.Dict{"backing_file": "mem:a", "backing_fmt": "vpc"})
	l.Create("c", 2*size, opts.Dict{"backing_file": "mem:b"})
	img := l.Open("c")
	l.Want(img, mib, fill(2))
	l.Want(img, size, fill(0))
	l.Write(img, 512, fill(7)[:512])
	l.Close(img)
	img = l.Open("c")
	l.Want(img, 0, append(append(fill(1)[:512:512], fill(7)[:512]...), fill(1)[:512]...))
	l.Close(img)
	if res, lines := l.Check("c", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
		t.Errorf("%+v %q", res, lines)
	}
	for _, o := range []opts.Dict{{"backing_file": "mem:a", "subformat": "fixed"}, {"backing_file": "mem:a", "backing_fmt": "raw"}} {
		err := block.Create(t.Context(), l.Reg, block.CreateRequest{Filename: "mem:d", Format: "vpc", Size: size, Options: o, Gate: driver.AllowAll})
		if !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%v: %v", o, err)
		}
	}
}

// TestWrongParent: an image with another identifier than the child names is refused.
func TestWrongParent(t *testing.T) {
	l := newLab(t, opts.Dict{})
	makeDiff(t, l)
	l.Create("a", size, opts.Dict{"force_size": "on"})
	if img, err := l.TryOpen("b", block.OpenOptions{}); err == nil {
		l.Close(img)
		t.Error("another image was taken for the parent")
	} else if !strings.Contains(err.Error(), "identifier") {
		t.Error(err)
	}
}

// TestResize: the table moves blocks out of its way, and the size is rounded where the
// geometry tells it.
func TestResize(t *testing.T) {
	l := newLab(t, opts.Dict{})
	img := l.Open("a")
	const large = 3 << 30 // 1536 entries
	if err := img.Resize(t.Context(), large, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	l.Want(img, mib, fill(2))
	l.Write(img, large-mib, fill(4))
	l.Close(img)
	img = l.Open("a")
	if img.Size() != large {
		t.Errorf("size %d", img.Size())
	}
	l.Want(img, 0, fill(1))
	l.Want(img, 4*mib, fill(3))
	l.Want(img, 8*mib, make([]byte, mib))
	l.Want(img, large-mib, fill(4))
	l.Close(img)
	if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions != 0 {
		t.Errorf("%+v %q", res, lines)
	}
	l.Create("chs", size, opts.Dict{})
	img = l.Open("chs")
	defer l.Close(img)
	if img.Size() != 10514432 {
		t.Errorf("size %d", img.Size())
	}
	if err := img.Resize(t.Context(), 100*mib, driver.ResizeOptions{}); err != nil || img.Size() != 104865792 {
		t.Errorf("size %d, %v", img.Size(), err)
	}
	if err := img.Resize(t.Context(), 90*mib, driver.ResizeOptions{Exact: true}); err != nil || img.Size() != 90*mib {
		t.Errorf("size %d, %v", img.Size(), err)
	}
}

// TestSizeCalculation: the creator, the geometry and the option decide about the size.
func TestSizeCalculation(t *testing.T) {
	for _, c := range []struct {
		creator, force string
		want           int64
	}{
		{"qemu", "", 10514432}, {"vpc ", "", 10514432}, {"win ", "", 12345 * 512}, {"qem2", "", 12345 * 512},
		{"qemu", "current_size", 12345 * 512}, {"win ", "chs", 10514432},
	} {
		l := drivertest.NewLab(t, vpc.New(), binary.BigEndian)
		l.Create("a", size, opts.Dict{})
		b := make([]byte, 512)
		if _, err := l.Mem.Disk("a").ReadAt(t.Context(), b, 0); err != nil {
			t.Fatal(err)
		}
		copy(b[28:], c.creator)
		binary.BigEndian.PutUint64(b[48:], 12345*512)
		var sum uint32
		for i, v := range b {
			if i < 64 || i >= 68 {
				sum += uint32(v)
			}
		}
		binary.BigEndian.PutUint32(b[64:], ^sum)
		if _, err := l.Mem.Disk("a").WriteAt(t.Context(), b, 0); err != nil {
			t.Fatal(err)
		}
		o := opts.Dict{"driver": "vpc", "file.driver": "mem", "file.filename": "a"}
		if c.force != "" {
			o["force_size_calc"] = c.force
		}
		img, err := block.Open(t.Context(), l.Reg, block.Source{Options: o}, block.OpenOptions{Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		if img.Size() != c.want {
			t.Errorf("%+v: size %d", c, img.Size())
		}
		l.Close(img)
	}
}
