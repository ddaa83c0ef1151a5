package parallels_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/parallels"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const (
	cluster = 4096
	table   = 64
	inUse   = 44
	mark    = 0x746f6e59
)

// newLab returns a lab with an image called a, whose first four clusters are full of 1, 2, 3
// and 4.
func newLab(t *testing.T) *drivertest.Lab {
	t.Helper()
	l := drivertest.NewLab(t, parallels.New(), binary.LittleEndian)
	l.Create("a", 64*cluster, opts.Dict{"cluster_size": "4096"})
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
		lines          []string
		want           [4]byte // what the clusters are full of after the repair
	}{
		{"nothing", func(*drivertest.Lab) {}, 0, 0, nil, [4]byte{1, 2, 3, 4}},
		{"twice", func(l *drivertest.Lab) { l.Poke("a", table+4, 4, 1) }, 1, 0, []string{"duplicate offset in BAT entry 1"}, [4]byte{1, 1, 3, 4}},
		{"outside and twice", func(l *drivertest.Lab) { l.Poke("a", table+4, 4, 1); l.Poke("a", table+8, 4, 900) }, 2, 0,
			[]string{"cluster 2 is outside image", "duplicate offset in BAT entry 1"}, [4]byte{1, 1, 0, 4}},
		{"end not in use", func(l *drivertest.Lab) { l.Poke("a", table+12, 4, 0) }, 0, 1,
			[]string{"space leaked at the end of the image 4096"}, [4]byte{1, 2, 3, 0}},
		{"in use", func(l *drivertest.Lab) { l.Poke("a", inUse, 4, mark) }, 1, 0, []string{"image was not closed correctly"}, [4]byte{1, 2, 3, 4}},
		{"data offset", func(l *drivertest.Lab) { l.Poke("a", 48, 4, 1) }, 1, 0, []string{"data_off field has incorrect value"}, [4]byte{1, 2, 3, 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			c.damage(l)
			res, lines := l.Check("a", driver.CheckFix{})
			want := slices.Clone(c.lines)
			for i := range want {
				want[i] = "ERROR " + want[i]
			}
			if res.Corruptions != c.corrupt || res.Leaks != c.leaks || !slices.Equal(lines, want) {
				t.Fatalf("%+v %q", res, lines)
			}
			res, lines = l.Check("a", driver.CheckFix{Leaks: true, Errors: true})
			for i := range want {
				want[i] = "Repairing " + c.lines[i]
			}
			if res.CorruptionsFixed != c.corrupt || res.LeaksFixed != c.leaks || res.Corruptions+res.Leaks != 0 || !slices.Equal(lines, want) {
				t.Fatalf("repair: %+v %q", res, lines)
			}
			if res, lines = l.Check("a", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
				t.Fatalf("after the repair: %+v %q", res, lines)
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

// TestInUse: the mark is on the disk before anything changes, and an image that has it is
// repaired when it is opened for writing.
func TestInUse(t *testing.T) {
	l := newLab(t)
	img := l.Open("a")
	if l.Peek("a", inUse, 4) != 0 {
		t.Error("an image that nobody wrote to is marked")
	}
	l.Mem.Disk("a").SetHook(func(op mem.Op, off, _ int64) error {
		if op == mem.OpWrite && off >= table && l.Peek("a", inUse, 4) != mark {
			return errors.New("a change before the in-use mark")
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
	if l.Peek("a", inUse, 4) != 0 {
		t.Error("an image that was closed is marked")
	}
	left.SetHook(nil)
	l.Mem.Add("a", left)
	l.Close(l.Open("a"))
	if l.Peek("a", inUse, 4) != 0 {
		t.Error("opening for writing did not repair the image")
	}
	if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
		t.Errorf("%+v %q", res, lines)
	}
}

// TestDiscardGivesRoom: what is discarded is used again, also after reopening.
func TestDiscardGivesRoom(t *testing.T) {
	l := newLab(t)
	size := l.Mem.Disk("a").Size()
	img := l.Open("a")
	if err := img.Discard(t.Context(), cluster, cluster); err != nil {
		t.Fatal(err)
	}
	l.Want(img, cluster, make([]byte, cluster))
	l.Close(img)
	if l.Peek("a", table+4, 4) != 0 {
		t.Error("the table still names the cluster")
	}
	img = l.Open("a")
	l.Write(img, 20*cluster, fill(7))
	l.Want(img, 20*cluster, fill(7))
	l.Close(img)
	if got := l.Mem.Disk("a").Size(); got != size {
		t.Errorf("the file has %d bytes, and had %d", got, size)
	}
}

// TestOld: images of the old magic count in sectors, with clusters of any length.
func TestOld(t *testing.T) {
	l := newLab(t)
	disk := l.Mem.Disk("a")
	const clusters = 40
	if _, err := disk.WriteAt(t.Context(), []byte("WithoutFreeSpace"), 0); err != nil {
		t.Fatal(err)
	}
	for off, v := range map[int64]uint64{28: 63, 32: clusters, 36: 63*clusters - 5, 40: 1 << 20, 48: 0} {
		l.Poke("a", off, 4, v)
	}
	for i := range int64(clusters) {
		l.Poke("a", table+4*i, 4, 0)
	}
	if err := disk.Resize(t.Context(), 512, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	img := l.Open("a")
	if img.Size() != (63*clusters-5)*512 {
		t.Fatalf("size %d", img.Size())
	}
	m := testkit.NewModel(img.Size())
	r := testkit.Rand(3)
	for range 30 {
		p := make([]byte, 1+r.IntN(100<<10))
		testkit.Fill(r, p)
		off := r.Int64N(img.Size() - int64(len(p)))
		l.Write(img, off, p)
		m.Write(p, off)
	}
	if err := img.Resize(t.Context(), 60*63*512, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	m.Resize(60 * 63 * 512)
	l.Close(img)
	if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
		t.Errorf("%+v %q", res, lines)
	}
	img = l.Open("a")
	defer l.Close(img)
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	if d := m.Diff(got, 0); d != "" {
		t.Error(d)
	}
}

// TestExtensionIsKept: nothing of a format extension is written over, and the image says
// that it is out of date.
func TestExtensionIsKept(t *testing.T) {
	l := newLab(t)
	end := l.Mem.Disk("a").Size()
	ext := bytes.Repeat([]byte("extension "), cluster/10+1)[:cluster]
	if _, err := l.Mem.Disk("a").WriteAt(t.Context(), ext, end); err != nil {
		t.Fatal(err)
	}
	l.Poke("a", 56, 8, uint64(end/512))
	l.Poke("a", inUse, 4, 0x312e3276)
	l.Close(l.Open("a"))
	if l.Peek("a", inUse, 4) != 0x312e3276 {
		t.Error("the extension of an image that nobody wrote to is out of date")
	}
	img := l.Open("a")
	l.Write(img, 30*cluster, fill(8))
	l.Close(img)
	got := make([]byte, cluster)
	if _, err := l.Mem.Disk("a").ReadAt(t.Context(), got, end); err != nil || !bytes.Equal(got, ext) {
		t.Error("the extension was written over")
	}
	if l.Peek("a", inUse, 4) != 0 {
		t.Error("nothing says that the extension is out of date")
	}
}

// TestRefused: what cannot be worked with says why.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		off  int64
		v    uint64
		want string
	}{
		{0, 1, "image not in Parallels format"},
		{16, 3, "image not in Parallels format"},
		{28, 0, "invalid image: zero sectors per track"},
		{28, 1 << 30, "invalid image: too big cluster"},
		{32, 1 << 30, "catalog too large"},
		{32, 1 << 20, "the table ends at 4194368, the file at 20480"},
		{32, 63, "the disk has 64 clusters, the table 63 entries"},
		{60, 1 << 30, "invalid image: too big offset"},
	} {
		l := newLab(t)
		l.Poke("a", c.off, 4, c.v)
		img, err := l.TryOpen("a", block.OpenOptions{})
		if err == nil {
			l.Close(img)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%#x at %d: %v, want %q", c.v, c.off, err, c.want)
		}
	}
}

// TestBacking: no image names a backing file, but options may. What the image does not have
// is of that file, also beside what is written.
func TestBacking(t *testing.T) {
	l := newLab(t)
	l.Create("top", 64*cluster, opts.Dict{"cluster_size": "4096"})
	open := func() *block.Image {
		t.Helper()
		img, err := block.Open(t.Context(), l.Reg, block.Source{Options: opts.Dict{"driver": "parallels", "file.driver": "mem", "file.filename": "top",
			"backing.driver": "parallels", "backing.file.driver": "mem", "backing.file.filename": "a"}},
			block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	img := open()
	l.Want(img, 0, fill(1))
	l.Write(img, 64, []byte{9})
	if err := img.WriteZeroes(t.Context(), cluster, cluster, 0); err != nil {
		t.Fatal(err)
	}
	if err := img.Discard(t.Context(), 2*cluster, cluster); err != nil {
		t.Fatal(err)
	}
	l.Close(img)
	img = open()
	defer l.Close(img)
	first := fill(1)
	first[64] = 9
	l.Want(img, 0, first)
	l.Want(img, cluster, make([]byte, cluster))
	l.Want(img, 2*cluster, fill(3))
	l.Want(img, 3*cluster, fill(4))
}

// TestTwiceWhenOpened: a cluster that two entries name is copied when the image is opened for writing, with the
// line of QEMU, and a write to one does not show in the other. Neither reading nor looking changes anything.
func TestTwiceWhenOpened(t *testing.T) {
	l := newLab(t)
	l.Poke("a", table+4, 4, 1)
	l.Poke("a", table+8, 4, 900) // outside: stays an error
	if res, _ := l.Check("a", driver.CheckFix{}); res.Corruptions != 2 {
		t.Fatalf("%+v", res)
	}
	if l.Peek("a", table+4, 4) != 1 {
		t.Fatal("a check without a repair has changed the table")
	}
	var lines []string
	img, err := l.TryOpen("a", block.OpenOptions{Write: true, Unmap: true, Messages: block.Messages{Report: func(line string) { lines = append(lines, line) }}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"Repairing duplicate offset in BAT entry 1"}; !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
	l.Write(img, 0, fill(9))
	l.Write(img, 20*cluster, fill(8))
	for at, b := range map[int64]byte{0: 9, 1: 1, 3: 4, 20: 8} {
		l.Want(img, at*cluster, fill(b))
	}
	if _, err := img.ReadAt(t.Context(), make([]byte, cluster), 2*cluster); err == nil {
		t.Error("a cluster behind the end of the file was read")
	}
	l.Close(img)
	if l.Peek("a", table+8, 4) != 900 {
		t.Error("an entry that names nothing was given up without being asked for")
	}
	if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions != 1 {
		t.Errorf("%+v %q", res, lines)
	}
}

// TestTwiceTooOften: what is opened does not grow to many times its size by copies that nobody asked for.
func TestTwiceTooOften(t *testing.T) {
	l := newLab(t)
	for i := range 60 {
		l.Poke("a", table+4*int64(i), 4, 1)
	}
	size := l.Mem.Disk("a").Size()
	if _, err := l.TryOpen("a", block.OpenOptions{Write: true}); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	if got := l.Mem.Disk("a").Size(); got != size {
		t.Errorf("the file has %d bytes, and had %d", got, size)
	}
}

// oldImage is an image of the older kind whose clusters begin at the given sectors, each full of its number.
func oldImage(dataOff uint32, tracks int, at ...uint32) []byte {
	le := binary.LittleEndian
	b := append([]byte{}, "WithoutFreeSpace"...)
	for _, v := range []uint32{2, 16, 1, uint32(tracks), uint32(len(at)), uint32(tracks * len(at)), 0, 0, dataOff, 0, 0, 0} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range at {
		b = le.AppendUint32(b, v)
	}
	for i, v := range at {
		if v == 0 {
			continue
		}
		b = append(b, make([]byte, max(0, (int(v)+tracks)*512-len(b)))...)
		copy(b[v*512:], bytes.Repeat([]byte{byte(i + 1)}, tracks*512))
	}
	return b
}

// TestOddPlaces: clusters of the older kind lie at any sector, also not at multiples of a cluster from the
// first one. They do not overlap because of that, and room is found that is free.
func TestOddPlaces(t *testing.T) {
	for name, b := range map[string][]byte{
		"no multiples":   oldImage(2, 8, 11, 3, 0, 19, 0, 40),
		"63 sectors":     oldImage(0, 63, 1+63+5, 1, 1+2*63+7, 0, 0, 0),
		"in a long hole": oldImage(1, 8, 80, 1, 0, 0, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			unit := int64(binary.LittleEndian.Uint32(b[28:])) * 512
			l := drivertest.NewLab(t, parallels.New(), binary.LittleEndian)
			disk := mem.NewDisk(0)
			if _, err := disk.WriteAt(t.Context(), b, 0); err != nil {
				t.Fatal(err)
			}
			l.Mem.Add("a", disk)
			if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
				t.Fatalf("%+v %q", res, lines)
			}
			img := l.Open("a")
			want := make([]byte, img.Size())
			if _, err := img.ReadAt(t.Context(), want, 0); err != nil {
				t.Fatal(err)
			}
			for i := range int64(6) {
				p := bytes.Repeat([]byte{byte(0x80 + i)}, int(unit/2))
				l.Write(img, i*unit, p)
				copy(want[i*unit:], p)
			}
			l.Close(img)
			img = l.Open("a")
			l.Want(img, 0, want)
			l.Close(img)
			if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
				t.Fatalf("after writing: %+v %q", res, lines)
			}
			if got := l.Mem.Disk("a").Size(); name == "in a long hole" && got != int64(len(b)) {
				t.Errorf("the file has %d bytes, and had %d with room", got, len(b))
			}
		})
	}
}

// TestOddDataOffset: entries of the newer kind count in clusters, wherever the data begin.
func TestOddDataOffset(t *testing.T) {
	l := newLab(t)
	l.Poke("a", 48, 4, 11) // sectors: no multiple of a cluster
	img := l.Open("a")
	l.Write(img, 30*cluster, fill(7))
	l.Close(img)
	img = l.Open("a")
	for at, b := range map[int64]byte{0: 1, 1: 2, 2: 3, 3: 4, 30: 7} {
		l.Want(img, at*cluster, fill(b))
	}
	l.Close(img)
}
