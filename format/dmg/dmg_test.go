package dmg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/chunks"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// content is a disk with text, runs and noise in it.
func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := testkit.Rand(seed)
	testkit.FillDisk(r, b)
	for i := 0; i+4096 <= n; i += 4096 {
		switch r.IntN(5) {
		case 0:
			copy(b[i:i+4096], bytes.Repeat([]byte("some text that comes again "), 200))
		case 1:
			for k := range 4096 {
				b[i+k] = byte(r.IntN(4)) * 17
			}
		case 2:
			copy(b[i:i+4096], b[i/2:])
		}
	}
	return b
}

// zeroed returns disk with zeroes in the chunks of kinds that hold none.
func zeroed(disk []byte, chunk int, kinds ...uint32) []byte {
	for i := 0; i*chunk < len(disk); i++ {
		if k := kinds[i%len(kinds)]; k == typeZero || k == typeIgnore {
			clear(disk[i*chunk : min((i+1)*chunk, len(disk))])
		}
	}
	return disk
}

func TestConformance(t *testing.T) {
	for name, kinds := range map[string][]uint32{
		"zlib": {typeZlib}, "ADC": {typeADC}, "LZFSE": {typeLZFSE}, "LZMA": {typeLZMA}, "raw": {typeRaw},
		"mixed": {typeZlib, typeZero, typeRaw, typeRaw, typeADC, typeIgnore, typeLZFSE, typeLZMA, typeRaw},
	} {
		if testkit.Race && name != "mixed" {
			continue // the encoders of the tests take long then
		}
		t.Run(name, func(t *testing.T) {
			const chunk = 128 << 10
			b := &builder{tb: t}
			var disk []byte
			for i, n := range []int{512, 300 << 10, 512 * 7, 1<<20 - 512*3} {
				p := zeroed(content(uint64(i), n), chunk, kinds...)
				b.table(p, chunk, kinds...)
				disk = append(disk, p...)
			}
			if name == "mixed" {
				drivertest.RunFixture(t, drivertest.Fixture{Driver: named{New()}, Image: b.image(), Content: disk})
			}
			img, err := open(t, b.forkImage())
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close(context.Background())
			got := make([]byte, len(disk))
			if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, disk) {
				t.Errorf("with a resource fork: wrong, or %v", err)
			}
			if res, lines := check(t, img); res.Corruptions != 0 {
				t.Errorf("check: %q", lines)
			}
		})
	}
}

// named is the driver for tests that have no file name to tell it by.
type named struct{ driver.Driver }

func (named) Probe([]byte, int64, string) int { return 50 }

func open(t testing.TB, b []byte) (*block.Image, error) {
	return openWith(t, b, block.OpenOptions{})
}

func openWith(t testing.TB, b []byte, o block.OpenOptions) (*block.Image, error) {
	t.Helper()
	memory := mem.New().(*mem.Driver)
	disk := mem.NewDisk(0)
	if _, err := disk.WriteAt(context.Background(), b, 0); err != nil {
		t.Fatal(err)
	}
	memory.Add("a", disk)
	o.Gate = driver.DenyAll
	return block.Open(context.Background(), block.NewRegistry(New(), raw.New(), memory), block.Source{Filename: "mem:a", Format: "dmg"}, o)
}

func check(t testing.TB, img *block.Image) (*driver.CheckResult, []string) {
	t.Helper()
	var lines []string
	res, err := img.Tree().Node().(driver.Checker).Check(context.Background(), driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res, lines
}

// TestLZFSEVector: what the reference encoder makes of content(7, 60000).
func TestLZFSEVector(t *testing.T) {
	testkit.NoRace(t, "one goroutine works alone")
	enc, err := os.ReadFile("testdata/content7.lzfse")
	if err != nil {
		t.Fatal(err)
	}
	want := content(7, 60000)
	got := make([]byte, len(want))
	if n, err := decodeLZFSE(got, enc); err != nil || n != len(want) || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, wrong, or %v", n, err)
	}
	for i := range 3000 { // no byte that is wrong does harm
		bad := bytes.Clone(enc)
		bad[i*7%len(bad)] ^= byte(1 << (i % 8))
		_, _ = decodeLZFSE(got, bad)
	}
}

// TestBesideOthers: other programs read what the tests of this package make. 7-Zip
// verifies the checksums of the tables; of LZFSE it takes blocks of LZVN only.
func TestBesideOthers(t *testing.T) {
	if testkit.Race {
		t.Skip("other programs are the same with the race detector")
	}
	sevenZip := testkit.Tool(t, "7zz")
	for name, c := range map[string]struct {
		kinds []uint32
		qemu  bool
	}{
		"zlib": {[]uint32{typeZlib, typeIgnore, typeRaw, typeZero}, true}, "ADC": {[]uint32{typeADC}, false},
		"LZFSE": {[]uint32{typeLZFSE}, false}, "LZMA": {[]uint32{typeLZMA}, false},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(4) {
				const chunk = 256 << 10
				b := &builder{tb: t, onlyLZVN: true}
				disk := zeroed(content(seed, 1<<20+512*5), chunk, c.kinds...)
				b.table(disk, chunk, c.kinds...)
				path := filepath.Join(t.TempDir(), "disk.dmg")
				if err := os.WriteFile(path, b.image(), 0o600); err != nil {
					t.Fatal(err)
				}
				out := testkit.Run(t, sevenZip, "t", path)
				if !strings.Contains(out, "Everything is Ok") {
					t.Errorf("7-Zip: %s", out)
				}
				if !c.qemu || !testkit.Installed("qemu-img") {
					continue
				}
				plain := path + ".raw"
				testkit.Run(t, "qemu-img", "convert", "-f", "dmg", "-O", "raw", path, plain)
				if got, err := os.ReadFile(plain); err != nil || !bytes.Equal(got, disk) {
					t.Errorf("qemu-img reads otherwise; %v", err)
				}
			}
		})
	}
}

// bzip2Chunks adds a table of chunks that bzip2 encodes.
func bzip2Chunks(t *testing.T, b *builder, disk []byte) {
	testkit.Tool(t, "bzip2")
	dir := t.TempDir()
	b.table(disk, len(disk), typeRaw)
	path := filepath.Join(dir, "x")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	enc, err := exec.Command("bzip2", "-c", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	r := b.tables[len(b.tables)-1][mishHeader:]
	b.data = append(b.data[:len(b.data)-len(disk)], enc...)
	be.PutUint32(r, typeBzip2)
	be.PutUint64(r[32:], uint64(len(enc)))
}

// TestBzip2: chunks that its tool makes.
func TestBzip2(t *testing.T) {
	b := &builder{tb: t}
	disk := content(1, 512<<10)
	bzip2Chunks(t, b, disk)
	img, err := open(t, b.image())
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	got := make([]byte, len(disk))
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("wrong, or %v", err)
	}
	if res, lines := check(t, img); res.Corruptions != 0 {
		t.Errorf("check: %q", lines)
	}
}

// TestCheck: what is damaged is found, and told apart.
func TestCheck(t *testing.T) {
	make := func() *builder {
		b := &builder{tb: t}
		b.table(content(1, 64<<10), 32<<10, typeRaw)
		b.table(content(2, 64<<10), 32<<10, typeZlib)
		return b
	}
	for name, c := range map[string]struct {
		change func(image []byte, b *builder)
		want   []string
	}{
		"nothing":      {func([]byte, *builder) {}, nil},
		"plain byte":   {func(p []byte, _ *builder) { p[100] ^= 1 }, []string{"table 0 (128 sectors at 0) does not have", "data of the file does not have"}},
		"encoded byte": {func(p []byte, b *builder) { p[len(b.data)-10] ^= 1 }, []string{"table 1 (128 sectors at 128): cannot decode", "data of the file does not have"}},
		"master":       {func(p []byte, _ *builder) { p[len(p)-trailerSize+360] ^= 1 }, []string{"list of tables does not have"}},
		"data sum":     {func(p []byte, _ *builder) { p[len(p)-trailerSize+88] ^= 1 }, []string{"data of the file does not have"}},
		"data length":  {func(p []byte, _ *builder) { p[len(p)-trailerSize+39] ^= 1 }, []string{"data of the file does not have"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := make()
			image := b.image()
			c.change(image, b)
			img, err := open(t, image)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close(context.Background())
			res, lines := check(t, img)
			if len(lines) != len(c.want) || res.Corruptions != int64(len(c.want)) {
				t.Fatalf("%d corruptions: %q", res.Corruptions, lines)
			}
			for i, w := range c.want {
				if !strings.Contains(lines[i], w) {
					t.Errorf("%q, want %q", lines[i], w)
				}
			}
		})
	}
}

// TestPlain: images without a trailer are the disk, if they begin as one.
func TestPlain(t *testing.T) {
	disk := content(1, 100<<10+77)
	copy(disk[1024:], "H+")
	img, err := open(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got[:len(disk)], disk) || len(got) != 101<<10-1024+512 {
		t.Errorf("%d bytes, wrong, or %v", len(got), err)
	}
}

// segmented cuts an image into files of about size bytes of data each.
func segmented(b *builder, size int) (files [][]byte) {
	list := b.list()
	count := (len(b.data) + size - 1) / size
	for i := range count {
		part := b.data[i*size : min((i+1)*size, len(b.data))]
		front := make([]byte, 512*i) // data need not be at the start
		out := append(bytes.Clone(front), part...)
		k := b.trailer(0, 0, len(part), 0)
		if i == 0 {
			k = b.trailer(len(out), 0, len(part), len(list))
			out = append(out, list...)
		}
		be.PutUint64(k[16:], uint64(i*size))
		be.PutUint64(k[24:], uint64(len(front)))
		be.PutUint32(k[56:], uint32(i+1))
		be.PutUint32(k[60:], uint32(count))
		files = append(files, append(out, k...))
	}
	return files
}

// TestSegments: chunks that reach from one segment into another, and segments that are
// not there, not allowed, or of another image.
func TestSegments(t *testing.T) {
	b := &builder{tb: t}
	disk := content(3, 400<<10)
	b.table(disk, 64<<10, typeZlib, typeRaw, typeADC)
	files := segmented(b, 50000)
	dir := t.TempDir()
	name := func(i int) string {
		if i == 0 {
			return filepath.Join(dir, "disk.dmg")
		}
		return filepath.Join(dir, fmt.Sprintf("disk.%03d.dmgpart", i+1))
	}
	for i, f := range files {
		if err := os.WriteFile(name(i), f, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := func(gate driver.Gate, b *driver.Budget) (*block.Image, error) {
		return block.Open(t.Context(), block.NewRegistry(New(), raw.New(), file.New()), block.Source{Filename: name(0)}, block.OpenOptions{Gate: gate, Budget: b})
	}
	img, err := open(driver.AllowAll, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(disk))
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("wrong, or %v", err)
	}
	for off := int64(0); off < img.Size(); {
		x, err := img.Tree().Node().(driver.Format).Map(t.Context(), off, img.Size()-off)
		if err != nil {
			t.Fatal(err)
		}
		if x.Kind == driver.ExtentData {
			p := make([]byte, x.Length)
			if _, err := x.Child.ReadAt(t.Context(), p, x.HostOffset); err != nil || !bytes.Equal(p, disk[off:off+x.Length]) {
				t.Errorf("data of %d are not where they are said to be; %v", off, err)
			}
		}
		off += x.Length
	}
	if res, lines := check(t, img); res.Corruptions != 0 {
		t.Errorf("check: %q", lines)
	}
	img.Close(context.Background())
	for what, c := range map[string]struct {
		do     func()
		gate   driver.Gate
		budget *driver.Budget
		want   error
	}{
		"gate":    {func() {}, driver.DenyAll, nil, driver.ErrGate},
		"budget":  {func() {}, driver.AllowAll, &driver.Budget{MaxExtentFiles: 2}, driver.ErrBudget},
		"other":   {func() { _ = os.WriteFile(name(1), files[2], 0o600) }, driver.AllowAll, nil, driver.ErrCorrupt},
		"missing": {func() { os.Remove(name(2)); _ = os.WriteFile(name(1), files[1], 0o600) }, driver.AllowAll, nil, os.ErrNotExist},
	} {
		if what == "missing" {
			continue // the last one, below
		}
		c.do()
		if img, err := open(c.gate, c.budget); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
			if err == nil {
				img.Close(context.Background())
			}
		}
	}
	if err := errors.Join(os.WriteFile(name(1), files[1], 0o600), os.Remove(name(2))); err != nil {
		t.Fatal(err)
	}
	if _, err := open(driver.AllowAll, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// TestRefused: trailers and tables that are wrong, in time and memory that are bounded.
func TestRefused(t *testing.T) {
	testkit.NoRace(t, "one goroutine works alone")
	b := &builder{tb: t}
	b.table(content(1, 64<<10), 32<<10, typeZlib)
	good := b.image()
	koly := len(good) - trailerSize
	put := func(off int, v uint64, n int) []byte {
		p := bytes.Clone(good)
		for i := range n {
			p[off+i] = byte(v >> (8 * (n - 1 - i)))
		}
		return p
	}
	entry := func(at int, v uint64) []byte { // of the second run
		c := *b
		c.tables = [][]byte{bytes.Clone(b.tables[0])}
		be.PutUint64(c.tables[0][mishHeader+runSize+at:], v)
		return c.image()
	}
	large := &builder{tb: t, sector: 1}
	large.tables = [][]byte{append(bytes.Clone(b.tables[0][:mishHeader]), bytes.Repeat(b.tables[0][mishHeader:mishHeader+runSize], 400000)...)}
	for name, c := range map[string]struct {
		image []byte
		want  string
	}{
		"empty":        {nil, "at least 512 bytes long"},
		"short":        {good[:511], "could not locate UDIF trailer"},
		"no trailer":   {good[:koly], "could not locate UDIF trailer"},
		"encrypted":    {append([]byte("encrcdsa"), good[:koly]...), "encrypted"},
		"list":         {put(koly+224, 1<<40, 8), "property list reaches beyond"},
		"fork":         {put(koly+40, 1<<62, 8), "resource fork reaches beyond"},
		"data":         {put(koly+24, 1<<62, 8), "data fork reaches beyond"},
		"sectors":      {put(koly+492, 1<<63, 8), "is too large"},
		"no tables":    {put(koly+224, 0, 8), "neither a property list nor a resource fork"},
		"segment":      {put(koly+56, 3, 4), "open the first one"},
		"segments":     {put(koly+60, 5000, 4), "too many"},
		"count":        {entry(16, 1<<40), "sector count 1099511627776 for chunk 1 is larger than max (131072)"},
		"length":       {entry(32, 1<<40), "length 1099511627776 for chunk 1 is larger than max (67108864)"},
		"sector":       {entry(8, 1<<62), "is impossible"},
		"position":     {entry(24, 1<<63), "is impossible"},
		"overlap":      {entry(8, 1), "two chunks hold sector 1"},
		"same sectors": {large.image(), "two chunks hold sector"},
		"giant list": {func() []byte {
			p := append(bytes.Repeat([]byte("<data>"), 40<<20/6), good[koly:]...)
			be.PutUint64(p[len(p)-trailerSize+216:], 0)
			be.PutUint64(p[len(p)-trailerSize+224:], uint64(len(p)-trailerSize))
			return p
		}(), "too large"},
		"endless data": {func() []byte {
			p := append(append([]byte("<data>"), bytes.Repeat([]byte{'A'}, 20<<20)...), good[koly:]...)
			be.PutUint64(p[len(p)-trailerSize+216:], 0)
			be.PutUint64(p[len(p)-trailerSize+224:], uint64(len(p)-trailerSize))
			return p
		}(), "ends in a <data> element"},
	} {
		t.Run(name, func(t *testing.T) {
			memory := mem.New().(*mem.Driver)
			disk := mem.NewDisk(0)
			if _, err := disk.WriteAt(t.Context(), c.image, 0); err != nil {
				t.Fatal(err)
			}
			memory.Add("a", disk)
			reg := block.NewRegistry(New(), raw.New(), memory)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			started := time.Now()
			img, err := block.Open(t.Context(), reg, block.Source{Filename: "mem:a", Format: "dmg"}, block.OpenOptions{Gate: driver.AllowAll})
			runtime.ReadMemStats(&after)
			if err == nil {
				img.Close(context.Background())
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
			if d := time.Since(started); d > 20*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
	if _, err := openWith(t, good, block.OpenOptions{Write: true}); !errors.Is(err, driver.ErrReadOnly) {
		t.Errorf("for writing: %v", err)
	}
}

// TestUnknownType: an image with a chunk of a type that nobody knows opens with a
// warning, and all else can be read.
func TestUnknownType(t *testing.T) {
	b := &builder{tb: t}
	disk := content(1, 64<<10)
	b.table(disk, 32<<10, typeZlib)
	be.PutUint32(b.tables[0][mishHeader+runSize:], 0x80000099)
	var warnings []string
	img, err := openWith(t, b.image(), block.OpenOptions{Messages: block.Messages{Warn: func(s string) { warnings = append(warnings, s) }}})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	if len(warnings) != 1 || !strings.Contains(warnings[0], "unknown type 80000099") {
		t.Errorf("warnings: %q", warnings)
	}
	got := make([]byte, 32<<10)
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, disk[:32<<10]) {
		t.Errorf("wrong, or %v", err)
	}
	if _, err := img.ReadAt(t.Context(), got, 32<<10); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}

// TestBombs: chunks that unpack to more than their sectors, in each encoding, and .xz
// data that ask for a dictionary of gigabytes.
func TestBombs(t *testing.T) {
	b := &builder{tb: t}
	for _, kind := range []uint32{typeZlib, typeADC, typeLZFSE, typeLZMA} {
		p := make([]byte, 1<<20)
		enc := b.encode(kind, p)
		short := b.encode(kind, p[:1000])
		n := &node{}
		for what, c := range map[string]struct {
			enc []byte
			n   int
		}{"more": {enc, 64 << 10}, "less": {short, 1024}} {
			if err := decodeBytes(n, c.enc, c.n, kind); err == nil {
				t.Errorf("%#x: %s is taken", kind, what)
			}
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := decodeBytes(n, enc, 1<<20, kind); err != nil {
			t.Errorf("%#x: %v", kind, err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
			t.Errorf("%#x: %d bytes were allocated", kind, got)
		}
	}
}

// FuzzDecoders gives any bytes to the decoders, and what they make of good ones.
func FuzzDecoders(f *testing.F) {
	b := &builder{tb: f}
	for _, kind := range []uint32{typeADC, typeLZFSE, typeLZMA, typeZlib} {
		f.Add(b.encode(kind, content(1, 60<<10)), kind)
	}
	f.Fuzz(func(t *testing.T, enc []byte, kind uint32) { _ = decodeBytes(&node{}, enc, 64<<10, kind) })
}

// FuzzImage opens and reads images of any content.
func FuzzImage(f *testing.F) {
	b := &builder{tb: f}
	b.table(content(1, 20<<10), 4<<10, typeZlib, typeRaw, typeZero, typeADC, typeLZFSE)
	f.Add(b.image())
	f.Add(b.forkImage())
	f.Fuzz(func(t *testing.T, p []byte) {
		img, err := openWith(t, p, block.OpenOptions{Budget: &driver.Budget{MaxMemory: 16 << 20}})
		if err != nil {
			return
		}
		defer img.Close(context.Background())
		buf := make([]byte, 100<<10)
		for _, off := range []int64{0, 511, img.Size() / 2, img.Size() - 1000} {
			if off >= 0 && off < img.Size() {
				_, _ = img.ReadAt(t.Context(), buf[:min(int64(len(buf)), img.Size()-off)], off)
				_, _ = img.Tree().Node().(driver.Format).Map(t.Context(), off, img.Size()-off)
			}
		}
	})
}

// decodeBytes decodes a chunk of n bytes of its own.
func decodeBytes(n *node, enc []byte, length int, kind uint32) error {
	disk := mem.NewDisk(0)
	if _, err := disk.WriteAt(context.Background(), enc, 0); err != nil {
		return err
	}
	r := chunks.NewReader(chunks.Config{Decode: n.decode, Budget: &driver.Budget{}})
	defer r.Close()
	return r.ReadAt(context.Background(), make([]byte, length), 0, func(context.Context, int64) (chunks.Chunk, error) {
		return chunks.Chunk{Length: int64(length), File: disk, Size: int64(len(enc)), Codec: kind}, nil
	})
}
