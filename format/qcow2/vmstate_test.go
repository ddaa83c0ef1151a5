package qcow2_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestVMState writes the state of a virtual machine, which lies where QEMU has it, is kept
// by snapshots, and does not show in the disk.
func TestVMState(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "a")
	const size, far = 1 << 20, 5 << 30
	create(t, path, size)
	img := openImage(t, path, true)
	first, second := bytes.Repeat([]byte{3}, 100<<10), bytes.Repeat([]byte{4}, 512)
	write := func(p []byte, pos int64) {
		t.Helper()
		if err := img.WriteVMState(ctx, p, pos); err != nil {
			t.Fatal(err)
		}
	}
	want := make([]byte, 256<<10)
	read := func() {
		t.Helper()
		got := bytes.Repeat([]byte{1}, len(want))
		if err := img.ReadVMState(ctx, got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the state differs, or %v", err)
		}
	}
	write(first, 512)
	copy(want[512:], first)
	read()
	id, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "s"})
	if err != nil {
		t.Fatal(err)
	}
	kept := bytes.Clone(want)
	write(second, 64<<10) // in a cluster that the snapshot shares
	copy(want[64<<10:], second)
	write(second, far) // beyond the L1 table
	read()
	if err := img.Snapshots().Apply(ctx, id); err != nil {
		t.Fatal(err)
	}
	want = kept
	read()
	if err := img.WriteVMState(ctx, second, 1<<62); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("beyond all tables: %v", err)
	}
	closeImage(t, img)
	checkClean(t, path)
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "read -b -P 3 512 100k", "-c", "read -b -P 0 0 512", "-c", "read -P 0 0 1M", path)

	// What the disk grows by reads as zeroes.
	img = openImage(t, path, true)
	if err := img.Resize(ctx, 2<<30, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	if zero, err := img.ReadsZero(ctx, 0, 2<<30); err != nil || !zero {
		t.Errorf("the state shows in the disk, or %v", err)
	}
	closeImage(t, img)
	checkClean(t, path)
}

// TestVMStateNowhere: an external data file holds none.
func TestVMStateNowhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	create(t, path, 1<<20, "data_file="+filepath.Join(dir, "d"))
	img := openImage(t, path, true)
	defer closeImage(t, img)
	if err := img.WriteVMState(t.Context(), make([]byte, 512), 0); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("%v", err)
	}
	if err := img.Tree().File().ReadVMState(t.Context(), make([]byte, 512), 0); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("a file: %v", err)
	}
}
