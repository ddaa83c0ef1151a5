package qcow2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// fullImage returns an image with data, a snapshot and other data, on a file system
// with so many free pages.
func fullImage(t *testing.T, version string, pages int) (*block.Image, func() *block.Image) {
	t.Helper()
	ctx := context.Background()
	img, _, open := memImage(t, opts.Dict{"cluster_size": "4k", "compat": version})
	for i := range 2 {
		if _, err := img.WriteAt(ctx, bytes.Repeat([]byte{byte(i + 1)}, 512<<10), int64(i)*(256<<10)); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			break
		}
		if _, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "one"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	img = open()
	im := img.Tree().Node().(*image)
	small := newSmallDisk(t, im.file, pages)
	im.file, im.data = small, small
	return img, open
}

// TestSnapshotOnFullDisk: where there is no room for a snapshot, the image is what it
// was, and clean.
func TestSnapshotOnFullDisk(t *testing.T) {
	ctx := context.Background()
	for _, version := range []string{"0.10", "1.1"} {
		for pages, full := 0, true; full; pages++ {
			where := fmt.Sprintf("version %s, %d pages", version, pages)
			img, open := fullImage(t, version, pages)
			_, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "two"})
			if full = err != nil; full && !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%s: %v", where, err)
			}
			if err := img.Close(ctx); err != nil {
				t.Fatalf("%s: closing: %v", where, err)
			}
			img = open()
			mustBeClean(t, img, where)
			if list, _, err := img.Snapshots().List(ctx); err != nil || len(list) != 2 && !full || len(list) != 1 && full {
				t.Fatalf("%s: snapshots %v, %v", where, list, err)
			}
			_ = img.Close(ctx)
		}
	}
}

// TestApplyOnFullDisk: to go back to a snapshot takes no room.
func TestApplyOnFullDisk(t *testing.T) {
	ctx := context.Background()
	for _, version := range []string{"0.10", "1.1"} {
		img, open := fullImage(t, version, 0)
		if err := img.Snapshots().Apply(ctx, "one"); err != nil {
			t.Fatalf("version %s: %v", version, err)
		}
		if err := img.Close(ctx); err != nil {
			t.Fatal(err)
		}
		img = open()
		p := make([]byte, 1<<20)
		if _, err := img.ReadAt(ctx, p, 0); err != nil {
			t.Fatal(err)
		}
		if want := append(bytes.Repeat([]byte{1}, 512<<10), make([]byte, 512<<10)...); !bytes.Equal(p, want) {
			t.Errorf("version %s: the disk is not that of the snapshot", version)
		}
		mustBeClean(t, img, "version "+version)
		_ = img.Close(ctx)
	}
}

// TestSnapshotUndone lets each write of a new snapshot fail once. In version 2, which
// has no dirty bit that would ask for a repair, too, nothing is left to repair.
func TestSnapshotUndone(t *testing.T) {
	ctx := context.Background()
	for _, version := range []string{"0.10", "1.1"} {
		for good, failed := 0, true; failed; good++ {
			where := fmt.Sprintf("version %s, one failure after %d calls", version, good)
			img, open := fullImage(t, version, 1<<20)
			im := img.Tree().Node().(*image)
			im.file = &failing{Storage: im.file, good: good, bad: 1}
			_, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "two"})
			failed = err != nil
			unknown := im.refused.Load() // whether the header names the snapshot
			_ = img.Close(ctx)
			if unknown {
				continue
			}
			img = open()
			mustBeClean(t, img, where)
			_ = img.Close(ctx)
		}
	}
}
