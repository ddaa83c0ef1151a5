package vmdk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// streamImage makes a stream-optimized image of a disk.
func streamImage(t testing.TB, disk []byte) []byte {
	t.Helper()
	const grain = grainSectors * sectorSize
	var ranges []driver.Range
	for off := 0; off < len(disk); off += grain {
		if end := min(off+grain, len(disk)); len(bytes.Trim(disk[off:end], "\x00")) > 0 {
			ranges = append(ranges, driver.Range{Offset: int64(off), Length: int64(end - off)})
		}
	}
	var out bytes.Buffer
	w, err := New().(driver.Streamer).NewStream(t.Context(), &out, &driver.StreamRequest{Size: int64(len(disk)), Options: opts.Dict{"subformat": streamOptimized}, Data: ranges})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range ranges {
		if _, err := w.Write(disk[x.Offset : x.Offset+x.Length]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func sequentially(ctx context.Context, r io.Reader) ([]byte, int64, error) {
	size, disk, err := New().(driver.SequentialReader).ReadSequential(ctx, r)
	if err != nil {
		return nil, 0, err
	}
	b, err := io.ReadAll(disk)
	return b, size, err
}

// TestSequential: disks are read from their images in one pass, also of those that end without a word, in pieces of
// any size.
func TestSequential(t *testing.T) {
	for seed, size := range []int{512, 65536, 3<<20 + 512, 34 << 20} {
		if testkit.Race {
			size = min(size, 3<<20)
		}
		disk := content(uint64(seed), size)
		for off := 0; off < size; off += 5 << 20 {
			clear(disk[off:min(size, off+4<<20)])
		}
		b := streamImage(t, disk)
		got, n, err := sequentially(t.Context(), iotest.HalfReader(bytes.NewReader(b)))
		if err != nil || n != int64(size) || !bytes.Equal(got, disk) {
			t.Errorf("%d bytes: %d read of %d, %v", size, len(got), n, err)
		}
	}
	disk := content(9, 1<<20)
	path := filepath.Join(t.TempDir(), "a.vmdk")
	create(t, path, 1<<20, opts.Dict{"subformat": streamOptimized})
	if b, err := os.ReadFile(path); err != nil {
		t.Fatal(err)
	} else if got, _, err := sequentially(t.Context(), bytes.NewReader(b)); err != nil || !bytes.Equal(got, make([]byte, 1<<20)) {
		t.Errorf("of an empty image: %d bytes, %v", len(got), err)
	}
	// As QEMU writes it: the directory in front, and no marker of the end.
	b := streamImage(t, disk)
	binary.LittleEndian.PutUint64(b[56:], 21)
	end := len(b)
	for i := range b {
		if i >= grainSectors*sectorSize && i%sectorSize == 0 && le.Uint32(b[i+8:]) == 0 && le.Uint64(b[i:]) == tableSectors && le.Uint32(b[i+12:]) == markerTable {
			end = i
			break
		}
	}
	if got, _, err := sequentially(t.Context(), bytes.NewReader(b[:end])); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("without an end: %d bytes, %v", len(got), err)
	}
}

// TestSequentialRefused: what is cut off, damaged or out of order is an error; so is what is no stream.
func TestSequentialRefused(t *testing.T) {
	const grain = grainSectors * sectorSize
	disk := content(3, 4*grain)
	for i := range disk {
		disk[i] |= 1
	}
	good := streamImage(t, disk)
	change := func(fn func(b []byte)) []byte {
		b := bytes.Clone(good)
		fn(b)
		return b
	}
	path := filepath.Join(t.TempDir(), "a.vmdk")
	create(t, path, 1<<20, opts.Dict{})
	sparse, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		image []byte
		want  error
	}{
		"cut off":          {good[:len(good)-sectorSize], driver.ErrTruncated},
		"cut off in data":  {good[:grain+100], driver.ErrTruncated},
		"header only":      {good[:sectorSize], driver.ErrTruncated},
		"nothing":          {nil, driver.ErrTruncated},
		"raw":              {disk, driver.ErrFormat},
		"sparse":           {sparse, driver.ErrUnsupported},
		"damaged":          {change(func(b []byte) { b[grain+300] ^= 0x55; b[grain+301] ^= 0x55 }), driver.ErrCorrupt},
		"behind the end":   {change(func(b []byte) { le.PutUint64(b[grain:], 4*grainSectors) }), driver.ErrCorrupt},
		"far behind":       {change(func(b []byte) { le.PutUint64(b[grain:], 1<<63) }), driver.ErrCorrupt},
		"odd":              {change(func(b []byte) { le.PutUint64(b[grain:], 1) }), driver.ErrCorrupt},
		"out of order":     {change(func(b []byte) { le.PutUint64(b[grain:], 2*grainSectors) }), driver.ErrUnsupported},
		"a huge grain":     {change(func(b []byte) { le.PutUint64(b[20:], 1<<40) }), driver.ErrCorrupt},
		"a huge disk":      {change(func(b []byte) { le.PutUint64(b[12:], 1<<50) }), driver.ErrCorrupt},
		"compressed grain": {change(func(b []byte) { le.PutUint32(b[grain+8:], 1<<31) }), driver.ErrCorrupt},
	} {
		if _, _, err := sequentially(t.Context(), bytes.NewReader(c.image)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := testkit.Rand(4)
	for range 300 {
		b := bytes.Clone(good)
		for range 1 + r.IntN(4) {
			b[[]int{r.IntN(80), grain + r.IntN(16), r.IntN(len(b))}[r.IntN(3)]] = byte(r.Uint32())
		}
		if le.Uint64(b[12:]) > 1<<20 { // a disk without end takes its time
			continue
		}
		_, _, _ = sequentially(t.Context(), bytes.NewReader(b))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := sequentially(ctx, bytes.NewReader(good)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
