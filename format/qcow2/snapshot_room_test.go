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

// extents is what a file system may need more to note where a file lies that has more
// holes than before: a block of 64 KiB at most, in units of 512 bytes.
const extents = 64 << 10 / 512

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
			_, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "s"})
			return err
		}, []string{"snapshot", "-c", "s"}},
		"bitmaps": {func(path string) error {
			img := openImage(t, path, true)
			defer closeImage(t, img)
			return img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: "b"})
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
		if ours, theirs := blocks(t, a), blocks(t, b); ours > theirs+extents {
			t.Errorf("%s: %d blocks, QEMU %d", name, ours, theirs)
		}
	}
}

// TestShrinkGivesRoomBack: what a disk loses when it gets smaller is given back to the
// file system wherever it lies.
func TestShrinkGivesRoomBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 32<<20)
	// The end of the disk lies before its start in the file.
	qemuIO(t, path, "write 20M 10M", "flush", "write 0 5M", "flush")
	before := blocks(t, path)
	img := openImage(t, path, true)
	if err := img.Resize(context.Background(), 5<<20, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	checkClean(t, path)
	if gone := before - blocks(t, path); gone < 10<<20/512-extents {
		t.Errorf("%d blocks were given back, of %d", gone, 10<<20/512)
	}
}

// TestMarkedCorrupt: a repair that cannot end well leaves the mark that the image is
// corrupt, one that does takes it away.
func TestMarkedCorrupt(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 1<<20)
	patch(t, path, 0x10000, u64(0x20200))
	for _, c := range []struct {
		fix  driver.CheckFix
		mark byte
	}{{driver.CheckFix{}, 0}, {driver.CheckFix{Leaks: true}, 2}, {driver.CheckFix{Leaks: true, Errors: true}, 0}} {
		checks(t, path, c.fix)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b[79]&2 != c.mark {
			t.Errorf("after a check with %+v the features are %#x", c.fix, b[79])
		}
	}
	img := openImage(t, path, true)
	defer closeImage(t, img)
	if _, err := img.WriteAt(ctx, []byte{1}, 0); err != nil {
		t.Error(err)
	}
}
