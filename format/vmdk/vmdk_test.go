package vmdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/mem"
)

var registry = block.NewRegistry(New(), raw.New(), file.New(), mem.New())

func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	testkit.FillDisk(testkit.Rand(seed), b)
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func tryOpen(path string, o block.OpenOptions) (*block.Image, error) {
	if o.Gate == nil {
		o.Gate = driver.AllowAll
	}
	return block.Open(context.Background(), registry, block.Source{Filename: path, Format: "vmdk"}, o)
}

func mustOpen(t testing.TB, path string, writable bool) *block.Image {
	t.Helper()
	img, err := tryOpen(path, block.OpenOptions{Write: writable})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func closeImage(t testing.TB, img *block.Image) {
	t.Helper()
	if err := img.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func readAll(t testing.TB, img *block.Image) []byte {
	t.Helper()
	b := make([]byte, img.Size())
	if _, err := img.ReadAt(context.Background(), b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

func create(t testing.TB, path string, size int64, o opts.Dict) {
	t.Helper()
	if err := tryCreate(path, size, o); err != nil {
		t.Fatal(err)
	}
}

func tryCreate(path string, size int64, o opts.Dict) error {
	return block.Create(context.Background(), registry, block.CreateRequest{Filename: path, Format: "vmdk", Size: size, Options: o, Gate: driver.AllowAll})
}

const head = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"

// TestDescriptor: forms of the text that VMware's tools and others write.
func TestDescriptor(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"QEMU":       {head + "RW 2048 FLAT \"a-flat.vmdk\" 0\n", "monolithicFlat 12345678 ffffffff  [RW 2048 FLAT a-flat.vmdk 0]"},
		"windows":    {strings.ReplaceAll(head, "\n", "\r\n") + "RW 2048 FLAT \"a.vmdk\" 7\r\n", "monolithicFlat 12345678 ffffffff  [RW 2048 FLAT a.vmdk 7]"},
		"free form":  {"version = 1\n  cid = AbCd\nPARENTCID = \"fffffffe\" \n createType = vmfs\nparentFileNameHint = \"b.vmdk\"\n rw  2048  vmfs  \"a.vmdk\"  \n", "vmfs abcd fffffffe b.vmdk [RW 2048 VMFS a.vmdk 0]"},
		"zero":       {head + "RW 10 ZERO\nRDONLY 20 FLAT \"x\" 3\nNOACCESS 5 SPARSE \"y\"\n", "monolithicFlat 12345678 ffffffff  [RW 10 ZERO  0] [RDONLY 20 FLAT x 3] [NOACCESS 5 SPARSE y 0]"},
		"vmfs zero":  {head + "RW 12 VMFS \"x\" 0\n", "monolithicFlat 12345678 ffffffff  [RW 12 VMFS x 0]"},
		"no CIDs":    {"version=1\ncreateType=\"vmfs\"\nRW 12 VMFS \"x\"\n", "vmfs 0 ffffffff  [RW 12 VMFS x 0]"},
		"NULs":       {head + "RW 12 VMFS \"x\"\n\x00\x00RW 12 VMFS \"y\"\n", "monolithicFlat 12345678 ffffffff  [RW 12 VMFS x 0]"},
		"none":       {head + "RW 0 FLAT \"x\" 0\nRWX 1 FLAT \"y\" 0\nRW x FLAT\n", "monolithicFlat 12345678 ffffffff "},
		"no offset":  {head + "RW 12 FLAT \"x\"\n", "invalid extent line: RW 12 FLAT \"x\""},
		"vmfs one":   {head + "RW 12 VMFS \"x\" 1\n", "invalid extent line: RW 12 VMFS \"x\" 1"},
		"negative":   {head + "RW 12 FLAT \"x\" -1\n", "invalid extent line"},
		"no name":    {head + "RW 12 SPARSE\n", "invalid extent line"},
		"no quote":   {head + "RW 12 SPARSE \"x\n", "invalid extent line"},
		"large":      {head + "RW 9223372036854775807 SPARSE \"x\"\n", "is too large"},
		"no type":    {"version=1\nCID=1\nparentCID=2\n", "invalid VMDK image descriptor"},
		"a document": {"<html>\nRW 1\n", "invalid VMDK image descriptor"},
	} {
		d, err := parseDescriptor([]byte(c.text))
		if err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		got := fmt.Sprintf("%s %x %x %s", d.createType, d.cid, d.parentCID, d.hint)
		for _, x := range d.extents {
			got += fmt.Sprintf(" [%s %d %s %s %d]", x.access, x.sectors, x.kind, x.name, x.offset)
		}
		if got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestCID: the digits are found and replaced where they are, and are others.
func TestCID(t *testing.T) {
	for _, c := range []struct{ text, digits string }{
		{head, "12345678"}, {"parentCID=1\n cid = \"ab\"\n", "ab"}, {"CID=7\n", "7"}, {"CID=\n", ""}, {"x=CID=9\nCID=8", "8"},
	} {
		at, ok := findCID([]byte(c.text), "CID")
		if got := c.text[at.off : at.off+at.length]; !ok || got != c.digits {
			t.Errorf("%q: %q, %v", c.text, got, ok)
		}
	}
	for n := 1; n <= 8; n++ {
		for old := range uint32(20) {
			v := cidLike(old, n, old)
			if s := fmt.Sprintf("%x", v); v == old || v == noParent || n > 1 && len(s) != n || len(s) > n {
				t.Errorf("%d digits like %x: %s", n, old, s)
			}
		}
	}
	if cidLike(1, 8, 0xefffffff) == noParent {
		t.Error("the ID of no parent is made")
	}
}

// TestExtents: flat extents at offsets, that are only read, of zeroes, and not to be
// read, in one disk.
func TestExtents(t *testing.T) {
	dir := t.TempDir()
	a, b := content(1, 100*512), content(2, 50*512)
	write(t, filepath.Join(dir, "a"), a)
	write(t, filepath.Join(dir, "b"), b)
	create(t, filepath.Join(dir, "s.vmdk"), 64<<10, nil)
	path := filepath.Join(dir, "disk.vmdk")
	write(t, path, []byte(head+"RW 40 FLAT \"a\" 10\nRW 30 ZERO\nRDONLY 50 VMFS \"b\"\nRW 128 SPARSE \"s.vmdk\"\nNOACCESS 9 FLAT \"nowhere\" 0\n"))
	img := mustOpen(t, path, true)
	ctx := t.Context()
	want := append(append(append([]byte{}, a[10*512:50*512]...), make([]byte, 30*512)...), b...)
	got := make([]byte, len(want))
	if _, err := img.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("wrong, or %v", err)
	}
	if _, err := img.ReadAt(ctx, make([]byte, 512), img.Size()-512); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("what must not be read: %v", err)
	}
	for off, want := range map[int64]error{0: nil, 39 * 512: driver.ErrReadOnly, 40 * 512: driver.ErrReadOnly, 70 * 512: driver.ErrReadOnly, 120 * 512: nil} {
		_, err := img.WriteAt(ctx, bytes.Repeat([]byte{7}, 1024), off)
		if !errors.Is(err, want) || err != nil && want == nil {
			t.Errorf("write at %d: %v", off, err)
		}
	}
	closeImage(t, img)
	now, err := os.ReadFile(filepath.Join(dir, "a"))
	if err != nil || now[10*512] != 7 || !bytes.Equal(now[12*512:49*512], a[12*512:49*512]) {
		t.Errorf("the flat extent: %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || bytes.Contains(text, []byte("CID=12345678")) || !bytes.Contains(text, []byte("parentCID=ffffffff")) || len(text) != len(head)+len("RW 40 FLAT \"a\" 10\nRW 30 ZERO\nRDONLY 50 VMFS \"b\"\nRW 128 SPARSE \"s.vmdk\"\nNOACCESS 9 FLAT \"nowhere\" 0\n") {
		t.Errorf("the descriptor afterwards: %q, %v", text, err)
	}
	img = mustOpen(t, path, false)
	if _, err := img.ReadAt(ctx, got[:1024], 120*512); err != nil || got[0] != 7 || got[1023] != 7 {
		t.Errorf("the sparse extent: %v", err)
	}
	closeImage(t, img)
}

// cowd makes a sparse extent of ESX of the grains that has tells.
func cowd(disk []byte, grain int, has func(int) bool) []byte {
	unit := grain * sectorSize
	grains := (len(disk) + unit - 1) / unit
	tables := (grains + cowdEntries - 1) / cowdEntries
	out := make([]byte, 5*sectorSize+tables*cowdEntries*4)
	copy(out, magicCOWD)
	for i, v := range []uint32{1, 3, uint32(len(disk) / sectorSize), uint32(grain), 4, uint32(tables)} {
		le.PutUint32(out[4+4*i:], v)
	}
	for i := range tables {
		le.PutUint32(out[4*sectorSize+4*i:], uint32(5+i*cowdEntries*4/sectorSize))
	}
	for i := range grains {
		if !has(i) {
			continue
		}
		le.PutUint32(out[5*sectorSize+4*i:], uint32(len(out)/sectorSize))
		p := make([]byte, unit)
		copy(p, disk[i*unit:])
		out = append(out, p...)
	}
	return out
}

// seSparse makes an SE sparse extent: of each grain, kind tells its state.
func seSparse(disk []byte, kind func(int) uint64) []byte {
	const unit = seGrain * sectorSize
	grains := (len(disk) + unit - 1) / unit
	tables := (grains + seEntries - 1) / seEntries
	const dirAt, tablesAt = 2, 4
	grainsAt := tablesAt + (tables+1)*seTable
	out := make([]byte, grainsAt*sectorSize)
	for i, v := range map[int]uint64{0: magicSESparse, 1: versionSE, 2: uint64(len(disk) / sectorSize), 3: seGrain, 4: seTable, 10: 1, 11: 1,
		16: dirAt, 17: 1, 18: tablesAt, 19: uint64(tables * seTable), 24: uint64(grainsAt)} {
		le.PutUint64(out[8*i:], v)
	}
	le.PutUint64(out[sectorSize:], magicVolatile)
	next := uint64(0)
	for i := range grains {
		// Table 0 of the file is not used, to see that numbers count.
		le.PutUint64(out[dirAt*sectorSize+8*(i/seEntries):], 0x1000000000000000|uint64(i/seEntries+1))
		e := kind(i) << 60
		if kind(i) == 3 {
			e |= next<<48&0x0fff000000000000 | next>>12
			next++
			p := make([]byte, unit)
			copy(p, disk[i*unit:])
			out = append(out, p...)
		}
		le.PutUint64(out[tablesAt*sectorSize+seTable*sectorSize*(i/seEntries+1)+8*(i%seEntries):], e)
	}
	return out
}

// TestESX: the sparse formats of ESX, over more than a table, on a parent and alone.
func TestESX(t *testing.T) {
	dir := t.TempDir()
	if testkit.Race {
		t.Skip("one goroutine that looks at many grains")
	}
	disk := content(3, 20<<20+512)
	some := func(i int) bool { return i%7 < 3 || i > 5000 }
	kind := func(i int) uint64 { return []uint64{0, 3, 3, 2, 1}[i%5] }
	write(t, filepath.Join(dir, "cowd"), cowd(disk, 1, func(i int) bool { return i < 45000 && some(i) }))
	write(t, filepath.Join(dir, "se"), seSparse(disk, kind))
	base := content(4, len(disk))
	for _, c := range []struct {
		kind string
		unit int
		here func(i int) (data, zero bool)
	}{
		{"vmfsSparse", 512, func(i int) (bool, bool) { return i < 45000 && some(i), false }},
		{"seSparse", 4096, func(i int) (bool, bool) { return kind(i) == 3, kind(i) == 1 || kind(i) == 2 }},
	} {
		for _, parent := range []bool{false, true} {
			want := make([]byte, len(disk))
			if parent {
				copy(want, base)
			}
			for i := 0; i*c.unit < len(disk); i++ {
				end := min((i+1)*c.unit, len(disk))
				switch data, zero := c.here(i); {
				case data:
					copy(want[i*c.unit:end], disk[i*c.unit:])
				case zero:
					clear(want[i*c.unit : end])
				}
			}
			line := fmt.Sprintf("RW %d VMFSSPARSE \"cowd\"\n", len(disk)/512)
			if c.kind == "seSparse" {
				line = fmt.Sprintf("RW %d SESPARSE \"se\"\n", len(disk)/512)
			}
			text := "version=1\nCID=1\nparentCID=ffffffff\ncreateType=\"" + c.kind + "\"\n" + line
			if parent {
				write(t, filepath.Join(dir, "base.vmdk"), []byte(fmt.Sprintf("version=1\nCID=77\nparentCID=ffffffff\ncreateType=\"vmfs\"\nRW %d VMFS \"base-flat\"\n", len(base)/512)))
				write(t, filepath.Join(dir, "base-flat"), base)
				text = strings.Replace(text, "ffffffff", "77", 1) + "parentFileNameHint=\"base.vmdk\"\n"
			}
			path := filepath.Join(dir, "disk.vmdk")
			write(t, path, []byte(text))
			img := mustOpen(t, path, false)
			if !bytes.Equal(readAll(t, img), want) {
				t.Errorf("%s, parent %v: wrong", c.kind, parent)
			}
			closeImage(t, img)
			if _, err := tryOpen(path, block.OpenOptions{Write: true}); !errors.Is(err, driver.ErrReadOnly) {
				t.Errorf("%s for writing: %v", c.kind, err)
			}
			if testkit.Installed("qemu-img") {
				plain := filepath.Join(dir, "plain")
				testkit.Run(t, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, plain)
				if got, err := os.ReadFile(plain); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, parent %v: QEMU reads otherwise; %v", c.kind, parent, err)
				}
			}
		}
	}
}

// TestParentChanged: an overlay whose parent was modified can be looked at and read
// where it has its own data; else it says why not.
func TestParentChanged(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	base, top := filepath.Join(dir, "base.vmdk"), filepath.Join(dir, "top.vmdk")
	create(t, base, 1<<20, nil)
	create(t, top, 1<<20, opts.Dict{"backing_file": "base.vmdk"})
	img := mustOpen(t, top, true)
	if _, err := img.WriteAt(ctx, []byte("own"), 100<<10); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	img = mustOpen(t, base, true)
	if _, err := img.WriteAt(ctx, []byte("changed"), 0); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	img = mustOpen(t, top, false)
	defer closeImage(t, img)
	p := make([]byte, 3)
	if _, err := img.ReadAt(ctx, p, 100<<10); err != nil || string(p) != "own" {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := img.ReadAt(ctx, p, 0); !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), "has been modified") {
		t.Errorf("%v", err)
	}
	write(t, filepath.Join(dir, "raw"), make([]byte, 1<<20))
	if err := tryCreate(filepath.Join(dir, "other.vmdk"), 1<<20, opts.Dict{"backing_file": "raw"}); err == nil || !strings.Contains(err.Error(), "Must be vmdk") {
		t.Errorf("%v", err)
	}
}

// TestParentGiven: options may give a parent to an image that was made without one. What the
// image lacks is not read from it.
func TestParentGiven(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "raw"), make([]byte, 1<<20))
	for _, name := range []string{"base.vmdk", "top.vmdk"} {
		create(t, filepath.Join(dir, name), 1<<20, nil)
		img := mustOpen(t, filepath.Join(dir, name), true)
		if _, err := img.WriteAt(t.Context(), []byte("own"), 100<<10); err != nil {
			t.Fatal(err)
		}
		closeImage(t, img)
	}
	for format, name := range map[string]string{"vmdk": "base.vmdk", "raw": "raw"} {
		img, err := block.Open(t.Context(), registry, block.Source{Options: opts.Dict{"driver": "vmdk", "file.driver": "file", "file.filename": filepath.Join(dir, "top.vmdk"),
			"backing.driver": format, "backing.file.driver": "file", "backing.file.filename": filepath.Join(dir, name)}}, block.OpenOptions{Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 3)
		if _, err := img.ReadAt(t.Context(), p, 100<<10); err != nil || string(p) != "own" {
			t.Errorf("%s: %q, %v", format, p, err)
		}
		if _, err := img.ReadAt(t.Context(), p, 0); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v", format, err)
		}
		closeImage(t, img)
	}
}

// TestCommitted: an overlay goes with its parent when that is changed by way of it, also
// where the new content ID has more digits than there were.
func TestCommitted(t *testing.T) {
	for name, o := range map[string]opts.Dict{"embedded": nil, "text": {"subformat": splitSparse}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			base, top := filepath.Join(dir, "base.vmdk"), filepath.Join(dir, "top.vmdk")
			create(t, base, 1<<20, nil)
			o := o.Clone()
			if o == nil {
				o = opts.Dict{}
			}
			o["backing_file"] = "base.vmdk"
			create(t, top, 1<<20, o)
			// As if the parent had been made with an ID of few digits.
			b, err := os.ReadFile(top)
			if err != nil {
				t.Fatal(err)
			}
			img := mustOpen(t, base, false)
			cid := img.Tree().Node().(interface{ CID() uint32 }).CID()
			closeImage(t, img)
			long := fmt.Sprintf("parentCID=%08x\n", cid)
			short := bytes.Replace(b, []byte(long), []byte("parentCID=7\n"), 1)
			if name == "embedded" {
				short = append(short[:512+20*512-7], append(make([]byte, 7), short[512+20*512-7:]...)...)
			}
			write(t, top, short)
			bb, err := os.ReadFile(base)
			if err != nil {
				t.Fatal(err)
			}
			write(t, base, bytes.Replace(bb, []byte(fmt.Sprintf("CID=%08x", cid)), []byte("CID=00000007"), 1))
			img, err = tryOpen(top, block.OpenOptions{Write: true, Chain: block.ChainUse{WriteBacking: true}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := img.Backing().WriteAt(t.Context(), []byte("committed"), 1000); err != nil {
				t.Fatal(err)
			}
			closeImage(t, img)
			img = mustOpen(t, top, false)
			p := make([]byte, 9)
			if _, err := img.ReadAt(t.Context(), p, 1000); err != nil || string(p) != "committed" {
				t.Errorf("%q, %v", p, err)
			}
			closeImage(t, img)
			if testkit.Installed("qemu-img") {
				testkit.Run(t, "qemu-img", "compare", "-f", "vmdk", "-F", "vmdk", top, base)
			}
		})
	}
}

// TestTwins: after any writes both copies of the grain tables say the same, and the
// content ID has changed once.
func TestTwins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.vmdk")
	create(t, path, 300<<20, opts.Dict{"zeroed_grain": "on"})
	budget := &driver.Budget{MaxMemory: 8 << 20}
	img, err := tryOpen(path, block.OpenOptions{Write: true, Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := budget.Scratch("all", 8<<20); err != nil {
			t.Errorf("memory of the budget is not given back: %v", err)
		}
	}()
	r := testkit.Rand(1)
	for range 50 {
		off := r.Int64N(img.Size() - 100000)
		if _, err := img.WriteAt(t.Context(), make([]byte, 1+r.IntN(100000)), off); err != nil {
			t.Fatal(err)
		}
		if err := img.WriteZeroes(t.Context(), r.Int64N(4000)*65536, 65536, 0); err != nil {
			t.Fatal(err)
		}
	}
	closeImage(t, img)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h := decodeSparse(b)
	used := 0
	for i := range 300 / 32 {
		entry := func(dir uint64) []byte {
			at := int(le.Uint32(b[int(dir)*sectorSize+4*i:])) * sectorSize
			return b[at : at+tableEntries*4]
		}
		x, y := entry(h.dir), entry(h.redundant)
		if !bytes.Equal(x, y) {
			t.Errorf("the copies of table %d differ", i)
		}
		used += len(bytes.Trim(x, "\x00"))
	}
	if used == 0 {
		t.Error("the tables are empty")
	}
}

// TestStream: what is written to a pipe, and grain by grain in any order with flushes
// and reopening in between, reads the same, here and by other programs.
func TestStream(t *testing.T) {
	ctx := t.Context()
	const grain = 65536
	for seed := range uint64(4) {
		if !testkit.Sample(int(seed), 2) {
			continue
		}
		r := testkit.Rand(seed)
		size := 40 << 20 // more than a table
		if testkit.Race {
			size = 3 << 20
		}
		disk := content(seed, size+512*int(seed))
		var ranges []driver.Range
		for off := 0; off < len(disk); off += grain {
			end := min(off+grain, len(disk))
			if r.IntN(3) == 0 || off/grain%600 > 500 {
				clear(disk[off:end])
			} else if k := len(ranges) - 1; k >= 0 && ranges[k].Offset+ranges[k].Length == int64(off) {
				ranges[k].Length += int64(end - off)
			} else {
				ranges = append(ranges, driver.Range{Offset: int64(off), Length: int64(end - off)})
			}
		}
		o := opts.Dict{"subformat": streamOptimized}
		var out bytes.Buffer
		w, err := New().(driver.Streamer).NewStream(ctx, &out, &driver.StreamRequest{Size: int64(len(disk)), Options: o, Data: ranges})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range ranges {
			for p := disk[x.Offset : x.Offset+x.Length]; len(p) > 0; {
				n := min(len(p), 1+r.IntN(200000))
				if _, err := w.Write(p[:n]); err != nil {
					t.Fatal(err)
				}
				p = p[n:]
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		piped, grains := filepath.Join(dir, "piped.vmdk"), filepath.Join(dir, "grains.vmdk")
		write(t, piped, out.Bytes())
		create(t, grains, int64(len(disk)), o)
		var units []int
		for _, x := range ranges {
			for off := x.Offset; off < x.Offset+x.Length; off += grain {
				units = append(units, int(off/grain))
			}
		}
		if seed > 1 {
			r.Shuffle(len(units), func(i, k int) { units[i], units[k] = units[k], units[i] })
		}
		img := mustOpen(t, grains, true)
		if !img.Traits().OnlyCompressed {
			t.Error("plain grains are taken")
		}
		for i, u := range units {
			p := make([]byte, grain)
			copy(p, disk[u*grain:])
			enc, ok, err := img.Encode(nil, p)
			if err == nil && ok {
				err = img.WriteEncoded(ctx, int64(u*grain), enc)
			}
			if err != nil || !ok {
				t.Fatalf("grain %d: %v, %v", u, ok, err)
			}
			switch {
			case i%100 == 50:
				if err := img.Flush(ctx); err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(grains); err != nil || !bytes.Equal(b[len(b)-sectorSize:], make([]byte, sectorSize)) {
					t.Errorf("after a flush the file has no end; %v", err)
				}
				if err := img.WriteEncoded(ctx, int64(u*grain), enc); err == nil || !strings.Contains(err.Error(), "allocated cluster") {
					t.Errorf("a grain is written twice: %v", err)
				}
			case i%100 == 99:
				closeImage(t, img)
				img = mustOpen(t, grains, true)
			}
		}
		if !bytes.Equal(readAll(t, img), disk) {
			t.Errorf("seed %d: reads otherwise while it is open for writing", seed)
		}
		closeImage(t, img)
		for _, path := range []string{piped, grains} {
			img := mustOpen(t, path, false)
			if !bytes.Equal(readAll(t, img), disk) {
				t.Errorf("seed %d, %s: reads otherwise", seed, path)
			}
			if res, err := img.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, func(string) {}, nil); err != nil || res.Corruptions != 0 {
				t.Errorf("seed %d, %s: check: %+v, %v", seed, path, res, err)
			}
			closeImage(t, img)
			plain := path + ".raw"
			if testkit.Installed("qemu-img") {
				testkit.Run(t, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, plain)
				if got, err := os.ReadFile(plain); err != nil || !bytes.Equal(got, disk) {
					t.Errorf("seed %d, %s: QEMU reads otherwise; %v", seed, path, err)
				}
			}
			if testkit.Installed("7zz") && (path == piped || seed < 2) {
				if out := testkit.Run(t, "7zz", "t", path); !strings.Contains(out, "Everything is Ok") {
					t.Errorf("seed %d, %s: 7-Zip: %s", seed, path, out)
				}
			}
		}
	}
}

// TestStreamRefused: what a pipe cannot have, and too many or too few bytes.
func TestStreamRefused(t *testing.T) {
	s := New().(driver.Streamer)
	for _, o := range []opts.Dict{nil, {"subformat": "monolithicFlat"}, {"subformat": streamOptimized, "backing_file": "x"}} {
		if _, err := s.NewStream(t.Context(), io.Discard, &driver.StreamRequest{Size: 1 << 20, Options: o}); !errors.Is(err, driver.ErrUnsupported) {
			t.Errorf("%v: %v", o, err)
		}
	}
	for _, n := range []int{65535, 65537} {
		w, err := s.NewStream(t.Context(), io.Discard, &driver.StreamRequest{Size: 1 << 20, Options: opts.Dict{"subformat": streamOptimized}, Data: []driver.Range{{Length: 65536}}})
		if err != nil {
			t.Fatal(err)
		}
		_, first := w.Write(make([]byte, n))
		if err := errors.Join(first, w.Close()); err == nil {
			t.Errorf("%d bytes for 65536 are taken", n)
		}
	}
}

// TestHostile: images that name files of others, or claim what they have not, in time
// and memory that are bounded.
func TestHostile(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.vmdk")
	create(t, good, 64<<20, nil)
	image, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	put := func(off int, v uint64, n int) []byte {
		b := bytes.Clone(image)
		for i := range n {
			b[off+i] = byte(v >> (8 * i))
		}
		return b
	}
	stream := func(off int, v uint64) []byte {
		path := filepath.Join(dir, "stream.vmdk")
		create(t, path, 64<<20, opts.Dict{"subformat": streamOptimized})
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		le.PutUint64(b[len(b)-2*sectorSize+off:], v)
		return b
	}
	many := head + strings.Repeat("RW 1 FLAT \"x\" 0\n", 2000)
	for name, c := range map[string]struct {
		image []byte
		kind  error
		want  string
	}{
		"shadow":        {[]byte(head + "RW 2 FLAT \"/etc/shadow\" 0\n"), driver.ErrGate, "/etc/shadow"},
		"protocol":      {[]byte(head + "RW 2 FLAT \"nbd://example.com/x\" 0\n"), driver.ErrGate, "nbd://"},
		"many":          {[]byte(many), driver.ErrBudget, "at most 1000"},
		"raw device":    {[]byte(head + "RW 2 VMFSRDM \"/dev/sda\"\n"), driver.ErrGate, "/dev/sda"},
		"kind":          {[]byte(head + "RW 2 OTHER \"x\"\n"), driver.ErrUnsupported, "unsupported extent type 'OTHER'"},
		"type":          {[]byte(strings.Replace(head, "monolithicFlat", "other", 1)), driver.ErrUnsupported, "unsupported image type 'other'"},
		"nothing":       {[]byte(head), driver.ErrCorrupt, "names no extents"},
		"tiny":          {nil, driver.ErrFormat, "too small"},
		"version":       {put(4, 4, 4), driver.ErrUnsupported, "unsupported VMDK version 4"},
		"granularity":   {put(20, 1<<31, 8), driver.ErrCorrupt, "invalid granularity"},
		"no grain":      {put(20, 0, 8), driver.ErrCorrupt, "L1 entry size is invalid"},
		"entries":       {put(44, 1<<31, 4), driver.ErrCorrupt, "L2 table size too big"},
		"capacity":      {put(12, 1<<50, 8), driver.ErrCorrupt, "L1 size too big"},
		"more capacity": {put(12, 1<<62, 8), driver.ErrCorrupt, "L1 size too big"},
		"table":         {put(12, 1<<36, 8), driver.ErrCorrupt, "grain directory of 1048576 entries at sector"},
		"directory":     {put(56, 1<<60, 8), driver.ErrCorrupt, "beyond the end of the file"},
		"overhead":      {put(64, 1<<40, 8), driver.ErrTruncated, "file truncated, expecting at least"},
		"no descriptor": {put(28, 1<<30, 8), driver.ErrCorrupt, "no descriptor"},
		"footer":        {stream(0, 0), driver.ErrCorrupt, "invalid footer"},
		"footer's end":  {stream(sectorSize, 1), driver.ErrCorrupt, "invalid footer"},
		"endless":       {stream(56, directoryAtEnd), driver.ErrCorrupt, "invalid footer"},
		"long text":     {append([]byte("version=1\n"), bytes.Repeat([]byte{'a'}, 30<<20)...), driver.ErrFormat, "invalid VMDK image descriptor"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.vmdk")
			write(t, path, c.image)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			started := time.Now()
			img, err := tryOpen(path, block.OpenOptions{Gate: driver.DenyAll})
			runtime.ReadMemStats(&after)
			if err == nil {
				closeImage(t, img)
			}
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
			if d := time.Since(started); d > 20*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
	// Where the directory is decides what is overwritten.
	for dir, want := range map[uint64]string{0: "no table can be", 5: "lies in the header", 130: "marker of its directory"} {
		path := filepath.Join(t.TempDir(), "disk.vmdk")
		write(t, path, stream(56, dir))
		if img, err := tryOpen(path, block.OpenOptions{Write: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("directory at %d: %v", dir, err)
			if err == nil {
				closeImage(t, img)
			}
		}
	}
	// A part of another image says so.
	create(t, filepath.Join(dir, "split.vmdk"), 1<<20, opts.Dict{"subformat": splitSparse})
	if _, err := tryOpen(filepath.Join(dir, "split-s001.vmdk"), block.OpenOptions{}); err == nil || !strings.Contains(err.Error(), "part of another image") {
		t.Errorf("%v", err)
	}
}

// TestCreateRefused: options that do not go together, and sizes that no image can have.
func TestCreateRefused(t *testing.T) {
	for _, c := range []struct {
		size int64
		o    opts.Dict
		want string
	}{
		{1 << 20, opts.Dict{"subformat": "foo"}, "invalid parameter value: foo"},
		{1 << 20, opts.Dict{"adapter_type": "foo"}, "invalid parameter value: foo"},
		{1 << 20, opts.Dict{"compat6": "on", "hwversion": "9"}, "compat6 cannot be enabled with hwversion set"},
		{1 << 20, opts.Dict{"subformat": monolithicFlat, "zeroed_grain": "on"}, "flat image can't enable zeroed grain"},
		{1 << 20, opts.Dict{"subformat": splitFlat, "backing_file": "x"}, "flat image can't have backing file"},
		{1 << 20, opts.Dict{"backing_file": "x", "backing_fmt": "raw"}, "backing_file must be a vmdk image"},
		{1 << 20, opts.Dict{"toolsversion": strings.Repeat("9", 11000)}, "too long for the descriptor"},
		{1<<50 + 512, nil, "1024 TiB at most"},
		{1 << 60, opts.Dict{"subformat": streamOptimized}, "64 TiB at most"},
	} {
		path := filepath.Join(t.TempDir(), "disk.vmdk")
		if err := tryCreate(path, c.size, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.o, err)
		}
	}
}

// FuzzDescriptor gives any text to the parser.
func FuzzDescriptor(f *testing.F) {
	f.Add([]byte(head + "RW 2048 FLAT \"a\" 0\nRW 1 ZERO\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if d, err := parseDescriptor(text); err == nil {
			for _, x := range d.extents {
				if x.sectors <= 0 || x.offset < 0 {
					t.Errorf("%+v", x)
				}
			}
		}
		if at, ok := findCID(text, "CID"); ok && at.off+at.length > len(text) {
			t.Errorf("%+v of %d", at, len(text))
		}
	})
}

// FuzzImage opens, reads and writes images of any content.
func FuzzImage(f *testing.F) {
	dir := f.TempDir()
	for i, o := range []opts.Dict{nil, {"subformat": streamOptimized}} {
		path := filepath.Join(dir, fmt.Sprint(i))
		create(f, path, 1<<20, o)
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(cowd(content(1, 10000), 1, func(i int) bool { return i%2 == 0 }))
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for _, writable := range []bool{false, true} {
			memory := mem.New().(*mem.Driver)
			d := mem.NewDisk(0)
			if _, err := d.WriteAt(ctx, b, 0); err != nil {
				t.Fatal(err)
			}
			memory.Add("a", d)
			img, err := block.Open(ctx, block.NewRegistry(New(), memory), block.Source{Filename: "mem:a", Format: "vmdk"},
				block.OpenOptions{Write: writable, Gate: driver.DenyAll, Budget: &driver.Budget{MaxMemory: 32 << 20}})
			if err != nil {
				continue
			}
			p := make([]byte, 100<<10)
			for _, off := range []int64{0, 511, img.Size() / 2, img.Size() - 1000} {
				if off >= 0 && off < img.Size() {
					_, _ = img.ReadAt(ctx, p[:min(int64(len(p)), img.Size()-off)], off)
					_, _ = img.Status(ctx, off, img.Size()-off, nil)
					if writable {
						_, _ = img.WriteAt(ctx, p[:100], off)
					}
				}
			}
			if c, ok := img.Tree().Node().(driver.Checker); ok && img.Size() < 1<<32 {
				_, _ = c.Check(ctx, driver.CheckFix{}, func(string) {}, nil)
			}
			_ = img.Close(ctx)
		}
		if ctx.Err() != nil {
			t.Fatal("took too long")
		}
	})
}
