package qemunbd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/nbd/export"
	"github.com/cowl-disk/cowl/nbd/server"
)

// openDisk opens a raw disk with these contents.
func openDisk(t testing.TB, disk []byte) *block.Image {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := block.Open(t.Context(), block.NewRegistry(drivers.All()...), block.Source{Filename: name, Format: "raw"}, block.OpenOptions{Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(t.Context()) })
	return img
}

// TestSliceFileRange wants a slice to find its bytes where the device has them.
func TestSliceFileRange(t *testing.T) {
	img := openDisk(t, make([]byte, 8<<20))
	dev, err := export.New(t.Context(), img, export.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := newSlice(dev, 1<<20, 2<<20)
	if f, at, ok := s.(server.FileRanger).FileRange(t.Context(), 512, 1<<20); !ok || f == nil || at != 1<<20+512 {
		t.Errorf("%v, offset %d", ok, at)
	}
	if _, _, ok := newSlice(s, 0, 512).(server.FileRanger).FileRange(t.Context(), 0, 8<<20); ok {
		t.Error("a range beyond the end of the file")
	}
}
