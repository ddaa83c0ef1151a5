package qcow2_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestMisplacedInDataFile: a cluster that is not at its guest offset in the external
// data file is damage, as QEMU sees it, for readers, writers and check.
func TestMisplacedInDataFile(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 1<<20, "data_file="+path+".data")
	qemuIO(t, path, "write -P 1 0 192k")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	be := binary.BigEndian
	l2 := int64(be.Uint64(b[be.Uint64(b[40:]):]) & 0x00fffffffffffe00)
	patch(t, path, l2+8, u64(1<<63|0x80000)) // the second cluster
	img := openImage(t, path, false)
	p := make([]byte, 64<<10)
	if _, err := img.ReadAt(ctx, p, 0); err != nil || p[0] != 1 {
		t.Error(err)
	}
	if _, err := img.ReadAt(ctx, p, 64<<10); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("reading: %v", err)
	}
	res, err := img.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, nil, nil)
	if err != nil || res.Corruptions != 1 {
		t.Errorf("check: %+v %v", res, err)
	}
	closeImage(t, img)
	if out, errOut, _ := testkit.Try(t, "qemu-io", "-r", "-f", "qcow2", "-c", "read 64k 64k", path); !strings.Contains(out+errOut, "does not match guest cluster offset") {
		t.Errorf("QEMU: %s%s", out, errOut)
	}
	img = openImage(t, path, true)
	if _, err := img.WriteAt(ctx, p, 64<<10); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("writing: %v", err)
	}
	_ = img.Close(ctx)
}

// TestPartSector: the rest behind the last whole sector of a disk is not shown.
func TestPartSector(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 1<<20)
	for _, size := range []uint64{1<<20 - 1, 1<<20 - 512, 1<<20 - 700, 511, 1} {
		patch(t, path, 24, u64(size))
		img := openImage(t, path, false)
		got, want := img.Size(), int64(size/512*512)
		closeImage(t, img)
		if theirs := int64(len(original(t, path))); got != want || theirs != want {
			t.Errorf("a disk of %d bytes: %d are shown, QEMU shows %d", size, got, theirs)
		}
	}
}
