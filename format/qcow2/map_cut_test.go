package qcow2_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
)

// TestCutShort: data beyond the end of the file is an error where it was there once,
// and zeroes where a program left them out.
func TestCutShort(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 4<<20)
	qemuIO(t, path, "write -P 1 0 1M")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	whole := info.Size()
	for _, c := range []struct {
		name string
		cut  int64 // bytes
		good int64 // of the first MiB of the disk
	}{
		{"nothing", 0, 1 << 20},
		{"a part of the last cluster", 4096, 1 << 20},
		{"the last cluster", 64 << 10, 15 << 16},
		{"a cluster and a half", 96 << 10, 15 << 16},
		{"half", 512 << 10, 8 << 16},
	} {
		if err := os.Truncate(path, whole-c.cut); err != nil {
			t.Fatal(err)
		}
		img := openImage(t, path, false)
		p := make([]byte, 64<<10)
		for off := int64(0); off < 1<<20; off += 64 << 10 {
			_, err := img.ReadAt(ctx, p, off)
			if off < c.good && err != nil || off >= c.good && !errors.Is(err, driver.ErrCorrupt) {
				t.Errorf("%s cut off: reading at %#x: %v", c.name, off, err)
			}
		}
		// What has no data is read all the same.
		if _, err := img.ReadAt(ctx, p, 2<<20); err != nil {
			t.Errorf("%s cut off: %v", c.name, err)
		}
		closeImage(t, img)
		if err := os.Truncate(path, whole); err != nil {
			t.Fatal(err)
		}
	}
}
