package cloop

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// build makes an image of a disk.
func build(t testing.TB, content []byte, size int) []byte {
	t.Helper()
	n := (len(content) + size - 1) / size
	out := make([]byte, tableStart+(n+1)*entrySize)
	copy(out, script)
	binary.BigEndian.PutUint32(out[preamble:], uint32(size))
	binary.BigEndian.PutUint32(out[preamble+4:], uint32(n))
	for i := range n {
		binary.BigEndian.PutUint64(out[tableStart+i*entrySize:], uint64(len(out)))
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		part := make([]byte, size)
		copy(part, content[i*size:])
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		out = append(out, b.Bytes()...)
	}
	binary.BigEndian.PutUint64(out[tableStart+n*entrySize:], uint64(len(out)))
	return out
}

func content(n int) []byte {
	b := make([]byte, n)
	testkit.FillDisk(testkit.Rand(3), b)
	return b
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]struct{ size, block int }{
		"64 KiB":  {1 << 20, 64 << 10},
		"512":     {200 << 10, 512},
		"unequal": {7 * 1536, 1536},
	} {
		t.Run(name, func(t *testing.T) {
			disk := content(c.size)
			drivertest.RunFixture(t, drivertest.Fixture{Driver: New(), Image: build(t, disk, c.block), Content: disk})
		})
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
	return block.Open(context.Background(), block.NewRegistry(New(), raw.New(), memory), block.Source{Filename: "mem:a", Format: "cloop"}, o)
}

// TestManyPages: a table that its cache does not hold.
func TestManyPages(t *testing.T) {
	testkit.NoRace(t, "one goroutine works alone")
	const unit = 512
	var disk []byte
	for i := range byte(128) {
		disk = append(disk, bytes.Repeat([]byte{i}, unit)...)
	}
	image := build(t, disk, unit)
	// The blocks again and again: 600,000 of them.
	const n = 600000
	shift := uint64((n - 128) * entrySize)
	big := make([]byte, tableStart+(n+1)*entrySize)
	copy(big, image[:tableStart])
	binary.BigEndian.PutUint32(big[preamble+4:], n)
	at := func(i int) uint64 { return binary.BigEndian.Uint64(image[tableStart+i*entrySize:]) }
	length := at(128) - at(0)
	for i := range n + 1 {
		binary.BigEndian.PutUint64(big[tableStart+i*entrySize:], at(i%128)+shift+uint64(i/128)*length)
	}
	data := image[tableStart+129*entrySize:]
	for range n/128 + 1 {
		big = append(big, data...)
	}
	img, err := open(big, block.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	r := testkit.Rand(1)
	p := make([]byte, 3*unit)
	for range 500 {
		i := r.IntN(n - 4)
		if _, err := img.ReadAt(t.Context(), p, int64(i)*unit); err != nil {
			t.Fatal(err)
		}
		for k := range 3 {
			if in := (i + k) % 128 * unit; !bytes.Equal(p[k*unit:(k+1)*unit], disk[in:in+unit]) {
				t.Fatalf("block %d reads wrong", i+k)
			}
		}
	}
	if got := img.Tree().Node().(*node).offsets.Slices(); got*64<<10 > 2<<20 {
		t.Errorf("%d pages are kept", got)
	}
}

// TestRefused: headers and tables that are wrong, and opening for writing.
func TestRefused(t *testing.T) {
	good := build(t, content(4096), 1024)
	be := func(off int, v uint64, n int) func([]byte) []byte {
		return func(b []byte) []byte {
			for i := range n {
				b[off+i] = byte(v >> (8 * (n - 1 - i)))
			}
			return b
		}
	}
	for name, c := range map[string]struct {
		change func([]byte) []byte
		write  bool
		want   string
		kind   error
	}{
		"513":          {be(preamble, 513, 4), false, "block_size 513 must be a multiple of 512", driver.ErrCorrupt},
		"0":            {be(preamble, 0, 4), false, "block_size cannot be zero", driver.ErrCorrupt},
		"huge":         {be(preamble, 0xfffffe00, 4), false, "block_size 4294966784 must be 64 MB or less", driver.ErrCorrupt},
		"blocks":       {be(preamble+4, 0xffffffff, 4), false, "n_blocks 4294967295 must be 536870911 or less", driver.ErrCorrupt},
		"offsets":      {be(preamble+4, 0x4000000, 4), false, "image requires too many offsets, try increasing block size", driver.ErrCorrupt},
		"beyond":       {be(preamble+4, 0x3ffffff, 4), false, "reaches beyond the end of the file", driver.ErrCorrupt},
		"order":        {be(tableStart+8, 1, 8), false, "offsets not monotonically increasing at index 1, image file is corrupt", driver.ErrCorrupt},
		"negative":     {be(tableStart+32, 1<<63, 8), false, "offsets not monotonically increasing at index 4", driver.ErrCorrupt},
		"long":         {be(tableStart+32, 1<<40, 8), false, "invalid compressed block size at index 4, image file is corrupt", driver.ErrCorrupt},
		"short header": {func(b []byte) []byte { return b[:preamble+3] }, false, "not in cloop format", driver.ErrFormat},
		"write":        {func(b []byte) []byte { return b }, true, "image is read-only", driver.ErrReadOnly},
	} {
		t.Run(name, func(t *testing.T) {
			img, err := open(c.change(bytes.Clone(good)), block.OpenOptions{Write: c.write})
			if err == nil {
				img.Close(context.Background())
			}
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestBomb: a block that unpacks to more than a block is an error, and costs no more
// memory than the block and the decoder do.
func TestBomb(t *testing.T) {
	testkit.NoRace(t, "one caller")
	image := build(t, make([]byte, 64<<20), 32<<20)
	// Two blocks of 32 MiB are said to be such of 64 KiB.
	binary.BigEndian.PutUint32(image[preamble:], 64<<10)
	img, err := open(image, block.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	started := time.Now()
	for i := range int64(2) {
		_, err := img.ReadAt(t.Context(), make([]byte, 1000), i*64<<10)
		if !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("block %d: %v", i, err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
	if d := time.Since(started); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

// FuzzImage opens and reads images of any content.
func FuzzImage(f *testing.F) {
	f.Add(build(f, content(3000), 512))
	f.Add(build(f, content(20000), 8192))
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
			}
		}
	})
}
