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
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestOverlapChecks writes into images whose metadata is counted as free: with the
// check for it the write is refused and the image marked corrupt; without it,
// the metadata would be overwritten.
func TestOverlapChecks(t *testing.T) {
	const clusterBits = 16
	for _, c := range []struct {
		name string
		// cluster tells which one to count as free.
		cluster func(f *os.File, h *ondisk.Header) int64
	}{
		{"main-header", func(*os.File, *ondisk.Header) int64 { return 0 }},
		{"active-l1", func(_ *os.File, h *ondisk.Header) int64 { return int64(h.L1TableOffset) }},
		{"refcount-table", func(_ *os.File, h *ondisk.Header) int64 { return int64(h.RefcountTableOffset) }},
		{"snapshot-table", func(_ *os.File, h *ondisk.Header) int64 { return int64(h.SnapshotsOffset) }},
		{"active-l2", func(f *os.File, h *ondisk.Header) int64 { return entry(t, f, int64(h.L1TableOffset)) }},
		{"refcount-block", func(f *os.File, h *ondisk.Header) int64 { return entry(t, f, int64(h.RefcountTableOffset)) }},
		{"inactive-l1", func(f *os.File, h *ondisk.Header) int64 { return int64(snapshotOf(t, f, h).L1TableOffset) }},
		{"inactive-l2", func(f *os.File, h *ondisk.Header) int64 {
			return entry(t, f, int64(snapshotOf(t, f, h).L1TableOffset))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tool := testkit.Tool(t, "qemu-img")
			name := filepath.Join(t.TempDir(), "img")
			testkit.Run(t, tool, "create", "-q", "-f", "qcow2", name, "64M")
			write := func(off string) { testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write "+off+" 64k", name) }
			write("0")
			testkit.Run(t, tool, "snapshot", "-c", "s", name)
			write("0") // the active L2 table is no longer that of the snapshot
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			head := make([]byte, 512)
			if _, err := f.ReadAt(head, 0); err != nil {
				t.Fatal(err)
			}
			h, err := ondisk.DecodeHeader(head)
			if err != nil {
				t.Fatal(err)
			}
			victim := c.cluster(f, h)
			block := entry(t, f, int64(h.RefcountTableOffset))
			if _, err := f.WriteAt([]byte{0, 0}, block+victim>>clusterBits*2); err != nil {
				t.Fatal(err)
			}
			testkit.Run(t, "cp", name, name+".unchecked")
			unchecked := openImage(t, name+".unchecked", true, "overlap-check=none")
			if _, err := unchecked.WriteAt(t.Context(), make([]byte, 65536), 8<<20); err != nil {
				t.Errorf("without the check, nothing refuses: %v", err)
			}
			_ = unchecked.Close(context.Background())
			img := openImage(t, name, true, "overlap-check=none", "overlap-check."+c.name+"=on")
			_, err = img.WriteAt(t.Context(), make([]byte, 65536), 8<<20)
			if !errors.Is(err, driver.ErrCorrupt) {
				t.Errorf("the write was not refused: %v", err)
			}
			if _, err := img.WriteAt(t.Context(), []byte("x"), 9<<20); !errors.Is(err, driver.ErrCorrupt) {
				t.Errorf("after that, writing is still possible: %v", err)
			}
			_ = img.Close(context.Background())
			if out := testkit.Run(t, tool, "info", "-U", name); !strings.Contains(out, "corrupt: true") {
				t.Errorf("the image is not marked corrupt:\n%s", out)
			}
		})
	}
}

// TestOverlapOfZeroCluster writes to a zero cluster whose room is, so its entry says, where
// the refcount table is.
func TestOverlapOfZeroCluster(t *testing.T) {
	name := filepath.Join(t.TempDir(), "img")
	create(t, name, 1<<20)
	qemuIO(t, name, "write 0 128k", "write -z 64k 64k")
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 512)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	h, err := ondisk.DecodeHeader(head)
	if err != nil {
		t.Fatal(err)
	}
	bad := binary.BigEndian.AppendUint64(nil, h.RefcountTableOffset|ondisk.FlagCopied|ondisk.FlagZero)
	if _, err := f.WriteAt(bad, entry(t, f, int64(h.L1TableOffset))+8); err != nil {
		t.Fatal(err)
	}
	before := entry(t, f, int64(h.RefcountTableOffset))
	img := openImage(t, name, true)
	if _, err := img.WriteAt(t.Context(), make([]byte, 512), 64<<10); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("the write was not refused: %v", err)
	}
	_ = img.Close(context.Background())
	if after := entry(t, f, int64(h.RefcountTableOffset)); after != before {
		t.Errorf("the refcount table has changed: %#x", after)
	}
}

// entry reads the first table entry at off as an offset.
func entry(t *testing.T, f *os.File, off int64) int64 {
	t.Helper()
	var b [8]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	return int64(binary.BigEndian.Uint64(b[:]) & ondisk.OffsetMask)
}

// snapshotOf reads the first snapshot.
func snapshotOf(t *testing.T, f *os.File, h *ondisk.Header) ondisk.Snapshot {
	t.Helper()
	b := make([]byte, 200)
	n, _ := f.ReadAt(b, int64(h.SnapshotsOffset))
	s, _, err := ondisk.DecodeSnapshot(b[:n])
	if err != nil {
		t.Fatal(err)
	}
	return s
}
