//go:build unix

package qcow2_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// blocks is what a file takes on disk, in units of 512 bytes.
func blocks(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Skip("disk usage is not known here")
	}
	return s.Blocks
}

// TestMetadataRoom: snapshots and bitmaps take no more room on disk than with QEMU.
func TestMetadataRoom(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		ours   func(path string) error
		theirs []string
	}{
		"snapshots": {func(path string) error {
			img := openImage(t, path, true)
			defer closeImage(t, img)
			_, err := img.CreateSnapshot(ctx, driver.SnapshotRequest{Name: "s"})
			return err
		}, []string{"snapshot", "-c", "s"}},
		"bitmaps": {func(path string) error {
			img := openImage(t, path, true)
			defer closeImage(t, img)
			return img.AddBitmap(ctx, driver.BitmapSpec{Name: "b"})
		}, []string{"bitmap", "--add", "PATH", "b"}},
	} {
		dir := t.TempDir()
		a, b := filepath.Join(dir, "a.qcow2"), filepath.Join(dir, "b.qcow2")
		for _, path := range []string{a, b} {
			create(t, path, 64<<20)
			qemuIO(t, path, "write 0 1M", "flush")
		}
		if err := c.ours(a); err != nil {
			t.Fatal(err)
		}
		args := append([]string(nil), c.theirs...)
		if args[len(args)-2] == "PATH" {
			args[len(args)-2] = b
		} else {
			args = append(args, b)
		}
		testkit.Run(t, "qemu-img", args...)
		checkClean(t, a)
		if ours, theirs := blocks(t, a), blocks(t, b); ours > theirs {
			t.Errorf("%s: %d blocks, QEMU %d", name, ours, theirs)
		}
	}
}
