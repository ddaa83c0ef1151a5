package qcow2_test

import (
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestDowngradeSharedZeroes: zero clusters in an L2 table that the disk shares with
// snapshots become clusters of zeroes, each counted as often as it is named.
func TestDowngradeSharedZeroes(t *testing.T) {
	dir := t.TempDir()
	base, path := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "a.qcow2")
	create(t, base, 4<<20)
	qemuIO(t, base, "write -P 1 0 256k")
	create(t, path, 4<<20, "backing_file=base.qcow2", "backing_fmt=qcow2")
	qemuIO(t, path, "write -z 0 128k")
	testkit.Run(t, "qemu-img", "snapshot", "-c", "one", path)
	testkit.Run(t, "qemu-img", "snapshot", "-c", "two", path)
	img := openImage(t, path, true)
	if err := img.Tree().Node().(driver.Amender).Amend(t.Context(), &driver.AmendRequest{Options: map[string]any{"compat": "0.10"}}); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	checkClean(t, path)
	for _, snapshot := range []string{"one", "two"} {
		qemuIO(t, path, "read -P 0 0 128k", "read -P 1 128k 128k", "write -P 7 0 64k")
		testkit.Run(t, "qemu-img", "snapshot", "-a", snapshot, path)
		checkClean(t, path)
	}
}
