package bochs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// redolog makes one of a disk: the sectors that has tells, in extents that are written
// in an order that is not that of the disk.
func redolog(disk []byte, subtype string, version uint32, extent int, has func(sector int) bool) []byte {
	n := (len(disk) + extent - 1) / extent
	out := make([]byte, redologSize+n*entrySize)
	copy(out, redologMagic)
	copy(out[32:], redologType)
	copy(out[48:], subtype)
	bitmap := max(1, extent/sectorSize/8)
	for i, v := range []uint32{version, redologSize, uint32(n), uint32(bitmap), uint32(extent)} {
		binary.LittleEndian.PutUint32(out[64+4*i:], v)
	}
	at := 84
	if version == redologV2 {
		at = 88
	}
	binary.LittleEndian.PutUint64(out[at:], uint64(len(disk)))
	room := (bitmap + sectorSize - 1) / sectorSize * sectorSize
	next := uint32(0)
	for k := range n {
		i := (k*7 + 3) % n // n is no multiple of 7
		one := make([]byte, room+extent)
		any := false
		for s := range extent / sectorSize {
			if off := i*extent + s*sectorSize; off < len(disk) && has(off/sectorSize) {
				one[s/8] |= 1 << (s % 8)
				copy(one[room+s*sectorSize:room+(s+1)*sectorSize], disk[off:])
				any = true
			}
		}
		entry := uint32(absent)
		if any {
			out = append(out, one...)
			entry, next = next, next+1
		}
		binary.LittleEndian.PutUint32(out[redologSize+i*entrySize:], entry)
	}
	return out
}

// sparse makes an image of the pages of a disk that has tells.
func sparse(disk []byte, page int, has func(page int) bool) []byte {
	n := (len(disk) + page - 1) / page
	out := make([]byte, (sparseSize+n*entrySize+page-1)/page*page)
	for i, v := range []uint32{sparseMagic, sparseV2, uint32(page), uint32(n)} {
		binary.LittleEndian.PutUint32(out[4*i:], v)
	}
	binary.LittleEndian.PutUint64(out[16:], uint64(len(disk)))
	next := uint32(0)
	for i := range n {
		entry := uint32(absent)
		if has(i) {
			p := make([]byte, page)
			copy(p, disk[i*page:])
			out = append(out, p...)
			entry, next = next, next+1
		}
		binary.LittleEndian.PutUint32(out[sparseSize+i*entrySize:], entry)
	}
	return out
}

func content(n int) []byte {
	b := make([]byte, n)
	testkit.Fill(testkit.Rand(3), b)
	return b
}

// some tells of every number whether it is one of a few runs.
func some(i int) bool { return i%13 < 4 || i%200 > 150 }

// only is disk with zeroes where has says no.
func only(disk []byte, unit int, has func(int) bool) []byte {
	out := make([]byte, len(disk))
	for i := 0; i*unit < len(disk); i++ {
		if has(i) {
			copy(out[i*unit:min((i+1)*unit, len(disk))], disk[i*unit:])
		}
	}
	return out
}

func TestConformance(t *testing.T) {
	disk := content(1<<20 + 7*512)
	for name, c := range map[string]drivertest.Fixture{
		"version 2":     {Image: redolog(disk, "Growing", redologV2, 4096, some), Content: only(disk, 512, some)},
		"version 1":     {Image: redolog(disk, "Growing", redologV1, 64<<10, some), Content: only(disk, 512, some)},
		"large extents": {Image: redolog(disk, "Growing", redologV2, 8<<20, some), Content: only(disk, 512, some)},
		"small extents": {Image: redolog(disk, "Growing", redologV2, 512, some), Content: only(disk, 512, some)},
		"sparse":        {Image: sparse(disk, 4096, some), Content: only(disk, 4096, some)},
	} {
		c.Driver = New()
		t.Run(name, func(t *testing.T) { drivertest.RunFixture(t, c) })
	}
}

// TestOverlay: what an undoable or volatile redolog does not have is in the disk that
// it is named after, or that is given; with the name alone the gate decides.
func TestOverlay(t *testing.T) {
	base, top := content(1<<20), bytes.Repeat([]byte("top!"), 1<<18)
	want := bytes.Clone(base)
	for i := range len(base) / 512 {
		if some(i) {
			copy(want[i*512:(i+1)*512], top[i*512:])
		}
	}
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("disk.img", base)
	reg := block.NewRegistry(New(), raw.New(), file.New())
	for _, subtype := range []string{"Undoable", "Volatile"} {
		image := redolog(top, subtype, redologV2, 4096, some)
		named, other := write("disk.img.redolog", image), write("other", image)
		for _, src := range []block.Source{
			{Filename: named},
			{Options: opts.Dict{"driver": "bochs", "file.filename": other, "backing.driver": "raw", "backing.file.filename": plain}},
		} {
			img, err := block.Open(t.Context(), reg, src, block.OpenOptions{Gate: driver.AllowAll})
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %v: wrong, or %v", subtype, src, err)
			}
			img.Close(context.Background())
		}
		for _, c := range []struct {
			name string
			gate driver.Gate
			want error
		}{{named, driver.DenyAll, driver.ErrGate}, {other, driver.AllowAll, driver.ErrUnsupported}} {
			img, err := block.Open(t.Context(), reg, block.Source{Filename: c.name}, block.OpenOptions{Gate: c.gate})
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
			if err == nil {
				img.Close(context.Background())
			}
		}
	}
}

// TestMap: neighbours are one extent, and data have their place in the file.
func TestMap(t *testing.T) {
	disk := content(64 << 10)
	img, err := open(redolog(disk, "Growing", redologV2, 4096, func(i int) bool { return i >= 3 && i < 20 || i == 100 }), block.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	var got []string
	for off := int64(0); off < img.Size(); {
		x, err := img.Tree().Node().(driver.Format).Map(t.Context(), off, img.Size()-off)
		if err != nil {
			t.Fatal(err)
		}
		kind := "zero"
		if x.Kind == driver.ExtentData {
			kind = "data"
			p := make([]byte, x.Length)
			if _, err := x.Child.ReadAt(t.Context(), p, x.HostOffset); err != nil || !bytes.Equal(p, disk[off:off+x.Length]) {
				t.Errorf("data of %d are not at %d", off, x.HostOffset)
			}
		}
		got = append(got, kind+" "+string(rune('0'+x.Length/512%10)))
		off += x.Length
	}
	if s := strings.Join(got, ", "); s != "zero 3, data 5, data 8, data 4, zero 0, data 1, zero 7" {
		t.Error(s)
	}
}

func open(b []byte, o block.OpenOptions) (*block.Image, error) {
	memory := mem.New().(*mem.Driver)
	disk := mem.NewDisk(0)
	if _, err := disk.WriteAt(context.Background(), b, 0); err != nil {
		return nil, err
	}
	memory.Add("a", disk)
	o.Gate = driver.DenyAll
	return block.Open(context.Background(), block.NewRegistry(New(), raw.New(), memory), block.Source{Filename: "mem:a", Format: "bochs"}, o)
}

// TestRefused: headers that are wrong, and opening for writing.
func TestRefused(t *testing.T) {
	growing := redolog(content(64<<10), "Growing", redologV2, 4096, some)
	pages := sparse(content(64<<10), 4096, some)
	le := func(b []byte, off int, v uint64, n int) []byte {
		b = bytes.Clone(b)
		for i := range n {
			b[off+i] = byte(v >> (8 * i))
		}
		return b
	}
	for name, c := range map[string]struct {
		image []byte
		write bool
		want  string
		kind  error
	}{
		"type":           {le(growing, 32, 0, 1), false, "image not in Bochs format", driver.ErrFormat},
		"version":        {le(growing, 64, 3, 4), false, "image not in Bochs format", driver.ErrFormat},
		"negative":       {le(growing, 72, 0xffffffff, 4), false, "catalog size is too large", driver.ErrCorrupt},
		"overflow":       {le(growing, 72, 0x40000000, 4), false, "catalog size is too large", driver.ErrCorrupt},
		"small":          {le(growing, 72, 3, 4), false, "catalog size is too small for this disk size", driver.ErrCorrupt},
		"disk":           {le(growing, 88, 1<<63, 8), false, "catalog size is too small for this disk size", driver.ErrCorrupt},
		"extent":         {le(growing, 80, 0x80000000, 4), false, "extent size 2147483648 is too large", driver.ErrCorrupt},
		"zero":           {le(growing, 80, 0, 4), false, "extent size must be at least 512", driver.ErrCorrupt},
		"power":          {le(growing, 80, 5000, 4), false, "extent size 5000 is not a power of two", driver.ErrCorrupt},
		"bitmap":         {le(growing, 76, 0, 4), false, "too small for extents", driver.ErrCorrupt},
		"table":          {le(growing, 68, 100, 4), false, "lies in the header", driver.ErrCorrupt},
		"beyond":         {le(growing, 68, 0xfffff000, 4), false, "beyond the end of the file", driver.ErrCorrupt},
		"page":           {le(pages, 8, 5000, 4), false, "not a power of two", driver.ErrCorrupt},
		"pages":          {le(pages, 12, 0xffffffff, 4), false, "are too many", driver.ErrCorrupt},
		"few pages":      {le(pages, 12, 3, 4), false, "are too few", driver.ErrCorrupt},
		"pages, no file": {le(pages, 12, 1<<27, 4), false, "beyond the end of the file", driver.ErrCorrupt},
		"short":          {growing[:511], false, "image not in Bochs format", driver.ErrFormat},
		"write":          {growing, true, "image is read-only", driver.ErrReadOnly},
	} {
		t.Run(name, func(t *testing.T) {
			img, err := open(c.image, block.OpenOptions{Write: c.write})
			if err == nil {
				img.Close(context.Background())
			}
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	// An entry beyond the end of the file is found when it is used.
	for name, image := range map[string][]byte{"redolog": le(growing, redologSize, 1<<31, 4), "sparse": le(pages, sparseSize, 1<<30, 4)} {
		img, err := open(image, block.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := img.ReadAt(t.Context(), make([]byte, 512), 0); !errors.Is(err, driver.ErrCorrupt) && !errors.Is(err, driver.ErrTruncated) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := img.ReadAt(t.Context(), make([]byte, 512), 40<<10); err != nil {
			t.Errorf("%s, another extent: %v", name, err)
		}
		img.Close(context.Background())
	}
}

// FuzzImage opens and reads images of any content.
func FuzzImage(f *testing.F) {
	f.Add(redolog(content(20000), "Growing", redologV2, 4096, some))
	f.Add(redolog(content(20480), "Growing", redologV1, 512, some))
	f.Add(sparse(content(20480), 512, some))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := open(b, block.OpenOptions{Budget: &driver.Budget{MaxMemory: 16 << 20}})
		if err != nil {
			return
		}
		defer img.Close(context.Background())
		p := make([]byte, 100<<10)
		for _, off := range []int64{0, 511, img.Size() / 2, img.Size() - 1000} {
			if off >= 0 && off < img.Size() {
				_, _ = img.ReadAt(t.Context(), p[:min(int64(len(p)), img.Size()-off)], off)
				_, _ = img.Tree().Node().(driver.Format).Map(t.Context(), off, img.Size()-off)
			}
		}
	})
}
