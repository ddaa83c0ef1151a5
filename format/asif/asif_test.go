package asif_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/asif"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const (
	chunk = 1 << 20
	n     = 2048 // chunks of a group
	c     = 63   // groups of a table
)

var be = binary.BigEndian

// image makes an image of a disk of size bytes: chunk i of the file after the tables is one
// of the disk, as entries has it.
type image struct {
	b     []byte
	table int // chunk of the first table
}

func newImage(size int64, second bool) *image {
	m := &image{b: make([]byte, 3*chunk), table: 1}
	b := m.b
	copy(b, "shdw")
	be.PutUint32(b[4:], 1)
	be.PutUint32(b[8:], 0x200)
	be.PutUint64(b[0x10:], 0x200)
	be.PutUint64(b[0x18:], 0x41ffc) // over the end of a page
	be.PutUint64(b[0x30:], uint64(size/512))
	be.PutUint64(b[0x38:], 1<<40)
	be.PutUint32(b[0x40:], chunk)
	be.PutUint16(b[0x44:], 512)
	be.PutUint64(b[0x200:], 7)
	dir := 0x200
	if second {
		dir = 0x41ffc
		be.PutUint64(b[dir:], 8)
		be.PutUint64(b[0x208:], 99)
	}
	be.PutUint64(b[dir+8:], 1)
	be.PutUint64(b[chunk+8*n:], 2) // the bitmap of the first group
	return m
}

// add adds a chunk of the disk in the first table, with flags in the top bits.
func (m *image) add(i int, state uint64, data []byte) {
	be.PutUint64(m.b[chunk+i/n*8*(n+1)+i%n*8:], state<<62|uint64(len(m.b)/chunk))
	m.b = append(m.b, data...)
}

func (m *image) open(t *testing.T) (*block.Image, error) {
	memory := mem.New().(*mem.Driver)
	d := mem.NewDisk(0)
	if _, err := d.WriteAt(t.Context(), m.b, 0); err != nil {
		t.Fatal(err)
	}
	memory.Add("a", d)
	return block.Open(t.Context(), block.NewRegistry(asif.New(), memory), block.Source{Filename: "mem:a"}, block.OpenOptions{Gate: driver.DenyAll})
}

// TestRead reads chunks that are absent, whole and there in part, by either directory.
func TestRead(t *testing.T) {
	for _, second := range []bool{false, true} {
		const size = (n + 3) * chunk
		m := newImage(size, second)
		r := testkit.Rand(1)
		want := testkit.NewModel(size)
		data := make([]byte, chunk)
		for _, i := range []int{0, 2, n - 1, n, n + 2} {
			testkit.Fill(r, data)
			m.add(i, 1, data)
			want.Write(data, int64(i)*chunk)
		}
		testkit.Fill(r, data)
		m.add(5, 3, data)
		for s := range 2048 {
			if s%7 < 3 || s > 300 && s < 700 {
				m.b[2*chunk+5*512+s/4] |= 1 << (s % 4 * 2)
				want.Write(data[s*512:][:512], 5*chunk+int64(s)*512)
			}
		}
		img, err := m.open(t)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range [][2]int64{{0, 7 * chunk}, {(n - 2) * chunk, 5 * chunk}, {5*chunk + 1000, 100000}} {
			p := make([]byte, part[1])
			if _, err := img.ReadAt(t.Context(), p, part[0]); err != nil {
				t.Fatal(err)
			}
			if d := want.Diff(p, part[0]); d != "" {
				t.Error(d)
			}
		}
		if img.Size() != size {
			t.Errorf("size %d", img.Size())
		}
		if err := img.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAbsentTable: a disk may be much longer than what its tables are for.
func TestAbsentTable(t *testing.T) {
	m := newImage(3*c*n*chunk, false)
	m.add(1, 1, make([]byte, chunk))
	img, err := m.open(t)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	st, err := img.Status(t.Context(), c*n*chunk, 2*c*n*chunk, nil)
	if err != nil || !st.Zero || st.Length != 2*c*n*chunk {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestRefused: what cannot be right, or is not known, is an error where it is.
func TestRefused(t *testing.T) {
	for _, x := range []struct {
		name   string
		damage func(m *image)
		open   bool // fails then
		want   error
	}{
		{"version", func(m *image) { m.b[7] = 2 }, true, driver.ErrUnsupported},
		{"chunk size", func(m *image) { be.PutUint32(m.b[0x40:], 3) }, true, driver.ErrCorrupt},
		{"small chunks", func(m *image) { be.PutUint32(m.b[0x40:], 8192) }, true, driver.ErrCorrupt},
		{"sector size", func(m *image) { be.PutUint16(m.b[0x44:], 0) }, true, driver.ErrCorrupt},
		{"more than the most", func(m *image) { be.PutUint64(m.b[0x38:], 1) }, true, driver.ErrCorrupt},
		{"huge", func(m *image) { be.PutUint64(m.b[0x30:], 1<<62); be.PutUint64(m.b[0x38:], 1<<63) }, true, driver.ErrCorrupt},
		{"directory", func(m *image) { be.PutUint64(m.b[0x10:], 1<<63) }, true, driver.ErrCorrupt},
		{"table", func(m *image) { be.PutUint64(m.b[0x208:], 1<<62) }, false, driver.ErrCorrupt},
		{"chunk", func(m *image) { be.PutUint64(m.b[chunk:], 1<<62|1<<54) }, false, driver.ErrCorrupt},
		{"chunk 0", func(m *image) { be.PutUint64(m.b[chunk:], 1<<62) }, false, driver.ErrCorrupt},
		{"state 2", func(m *image) { be.PutUint64(m.b[chunk:], 2<<62|2) }, false, driver.ErrUnsupported},
		{"absent with a place", func(m *image) { be.PutUint64(m.b[chunk:], 2) }, false, driver.ErrUnsupported},
		{"sector state", func(m *image) { be.PutUint64(m.b[chunk:], 3<<62|2); m.b[2*chunk] = 2 }, false, driver.ErrUnsupported},
		{"no bitmap", func(m *image) { be.PutUint64(m.b[chunk:], 3<<62|2); be.PutUint64(m.b[chunk+8*n:], 0) }, false, driver.ErrCorrupt},
	} {
		m := newImage(4*chunk, false)
		x.damage(m)
		img, err := m.open(t)
		if err == nil {
			if x.open {
				t.Errorf("%s: opened", x.name)
			}
			_, err = img.ReadAt(t.Context(), make([]byte, 512), 0)
			img.Close(context.Background())
		}
		if !errors.Is(err, x.want) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
}

func FuzzImage(f *testing.F) {
	m := newImage(4*chunk, true)
	m.add(0, 1, make([]byte, chunk))
	f.Add(m.b[:0x300], uint64(1)<<62|2)
	f.Fuzz(func(t *testing.T, head []byte, entry uint64) {
		m := newImage(4*chunk, true)
		copy(m.b, head)
		be.PutUint64(m.b[chunk:], entry)
		img, err := m.open(t)
		if err != nil {
			return
		}
		_, _ = img.ReadAt(t.Context(), make([]byte, 4096), 0)
		img.Close(context.Background())
	})
}
