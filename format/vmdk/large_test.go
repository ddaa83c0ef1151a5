package vmdk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/blkdebug"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
)

// TestLargeDisk: a sparse extent may be of a disk larger than the 2 TiB that its grains have
// addresses for; a grain behind the last of these is refused, and the image stays whole.
func TestLargeDisk(t *testing.T) {
	const size, grain = 3 << 40, grainSectors * sectorSize
	path := filepath.Join(t.TempDir(), "a.vmdk")
	create(t, path, size, nil)
	img := openToResize(t, path)
	data, end := content(1, grain), content(2, grain)
	for off, p := range map[int64][]byte{5 * grain: data, size - grain: end} {
		if _, err := img.WriteAt(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	// The grain at 5 moves to the last place that has an address.
	const last = int64(maxHostSector - grainSectors)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	word := func(off int64) int64 {
		var b [4]byte
		if _, err := f.ReadAt(b[:], off); err != nil {
			t.Fatal(err)
		}
		return int64(le.Uint32(b[:]))
	}
	b := make([]byte, headerSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	h := decodeSparse(b)
	for _, dir := range []uint64{h.dir, h.redundant} {
		if _, err := f.WriteAt(le.AppendUint32(nil, uint32(last)), word(int64(dir)*sectorSize)*sectorSize+5*4); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt(data, last*sectorSize); err != nil {
		t.Skipf("the file system of the test has no file of 2 TiB: %v", err)
	}

	img = openToResize(t, path)
	defer img.Close(t.Context())
	if _, err := img.WriteAt(t.Context(), data, 9*grain); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a grain behind the last address: %v", err)
	}
	for off, want := range map[int64][]byte{5 * grain: data, 9 * grain: make([]byte, grain), size - grain: end} {
		got := make([]byte, grain)
		if _, err := img.ReadAt(t.Context(), got, off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("at %d: other bytes, %v", off, err)
		}
	}
}

// TestEvents: rules of blkdebug meet the writing of grains.
func TestEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.vmdk")
	create(t, path, 1<<20, nil)
	img, err := block.Open(t.Context(), block.NewRegistry(New(), file.New(), blkdebug.New()), block.Source{Format: "vmdk", Options: opts.Dict{
		"file.driver": "blkdebug", "file.image.driver": "file", "file.image.filename": path,
		"file.inject-error.0.event": "write_aio", "file.inject-error.0.errno": "28", "file.inject-error.0.once": "on",
	}}, block.OpenOptions{Write: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	for i, want := range []error{syscall.ENOSPC, nil} {
		if _, err := img.WriteAt(t.Context(), content(3, 512), int64(i)<<16); !errors.Is(err, want) {
			t.Errorf("write %d: %v, not %v", i, err, want)
		}
	}
}
