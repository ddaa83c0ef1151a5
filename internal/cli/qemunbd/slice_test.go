package qemunbd

import (
	"testing"

	"github.com/cowl-disk/cowl/nbd/export"
	"github.com/cowl-disk/cowl/nbd/server"
)

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
