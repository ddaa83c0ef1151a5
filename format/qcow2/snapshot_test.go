package qcow2

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// memImage makes and opens an image in memory.
func memImage(t *testing.T, options opts.Dict) (*block.Image, *mem.Disk, func() *block.Image) {
	t.Helper()
	ctx := context.Background()
	memory := mem.New().(*mem.Driver)
	reg := block.NewRegistry(New(), memory)
	if err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:a", Format: "qcow2", Size: 1 << 20, Options: options, Gate: driver.DenyAll}); err != nil {
		t.Fatal(err)
	}
	open := func() *block.Image {
		t.Helper()
		img, err := block.Open(ctx, reg, block.Source{Filename: "mem:a", Format: "qcow2"},
			block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	return open(), memory.Disk("a"), open
}

// TestSnapshotEntries: what other programs wrote into entries of the snapshot
// table outlives our changes to it, known or not.
func TestSnapshotEntries(t *testing.T) {
	ctx := context.Background()
	img, disk, open := memImage(t, opts.Dict{"cluster_size": "4k"})
	date := time.Unix(1700000000, 123456000)
	for _, name := range []string{"a", "b"} {
		if _, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: name, Date: date}); err != nil {
			t.Fatal(err)
		}
	}
	im := img.Tree().Node().(*image)
	want := ondisk.Snapshot{L1TableOffset: im.snap.Entries[0].L1TableOffset, L1Size: im.snap.Entries[0].L1Size, ID: "1", Name: "a",
		DateSec: 1700000000, DateNsec: 123456000, DiskSize: 1 << 20, HasDiskSize: true, HasIcount: true}
	if !equalSnapshots(im.snap.Entries[0], want) {
		t.Fatalf("made %+v, want %+v", im.snap.Entries[0], want)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	// A large VM state, no instruction count, and extra data of the future.
	want.VMStateSize, want.VMClockNsec, want.HasIcount = 5<<32+7, 1<<40, false
	want.ExtraUnknown = []byte("from the future!")
	other := im.snap.Entries[1]
	table := other.Append(want.Append(nil, 0), 0)
	if _, err := disk.WriteAt(ctx, table, int64(im.hdr.SnapshotsOffset)); err != nil {
		t.Fatal(err)
	}
	img = open()
	id, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "c", Date: date})
	if err == nil {
		err = img.Snapshots().Delete(ctx, "2", "b")
	}
	if err == nil {
		err = img.Snapshots().Apply(ctx, id)
	}
	if err == nil {
		err = img.Close(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	img = open()
	defer img.Close(ctx)
	im = img.Tree().Node().(*image)
	if len(im.snap.Entries) != 2 || !equalSnapshots(im.snap.Entries[0], want) || im.snap.Entries[1].Name != "c" {
		t.Fatalf("%+v\nwant %+v first", im.snap.Entries, want)
	}
	res, err := im.Check(ctx, driver.CheckFix{}, func(l string) { t.Log(l) }, nil)
	if err != nil || res.Corruptions+res.Leaks+res.CheckErrors != 0 {
		t.Fatal(res, err)
	}
}

func equalSnapshots(a, b ondisk.Snapshot) bool {
	same := bytes.Equal(a.ExtraUnknown, b.ExtraUnknown)
	a.ExtraUnknown, b.ExtraUnknown = nil, nil
	return same && slices.Equal(a.Append(nil, 0), b.Append(nil, 0))
}

// TestSnapshotDirtyBit: the bit is set while an operation works and gone after it,
// unless lazy refcounts keep it until the image is closed.
func TestSnapshotDirtyBit(t *testing.T) {
	ctx := context.Background()
	for _, lazy := range []bool{false, true} {
		o := opts.Dict{"cluster_size": "4k"}
		if lazy {
			o["lazy_refcounts"] = "on"
		}
		img, disk, _ := memImage(t, o)
		dirty := func() bool {
			var b [8]byte
			if _, err := disk.ReadAt(ctx, b[:], ondisk.IncompatibleOffset); err != nil {
				t.Fatal(err)
			}
			return binary.BigEndian.Uint64(b[:])&ondisk.IncompatDirty != 0
		}
		if _, err := img.WriteAt(ctx, []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		id, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{})
		if err != nil || dirty() != lazy {
			t.Fatalf("lazy %v: %v, dirty %v", lazy, err, dirty())
		}
		if err := img.Snapshots().Delete(ctx, id, "no such name"); !errors.Is(err, driver.ErrNoSnapshot) {
			t.Fatal(err)
		}
		if err := img.Snapshots().Delete(ctx, id, ""); err != nil {
			t.Fatal(err)
		}
		if err := img.Close(ctx); err != nil || dirty() {
			t.Fatal(err, dirty())
		}
	}
}

// TestSnapshotUncounted: a cluster that is in use but counted as free is not
// written over by the tables of a snapshot.
func TestSnapshotUncounted(t *testing.T) {
	ctx := context.Background()
	img, _, open := memImage(t, opts.Dict{"cluster_size": "4k"})
	if _, err := img.WriteAt(ctx, bytes.Repeat([]byte("guest data"), 400), 0); err != nil {
		t.Fatal(err)
	}
	x, err := img.Tree().Node().(driver.Format).Map(ctx, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	img = open()
	defer img.Close(ctx)
	im := img.Tree().Node().(*image)
	im.freeNow(ctx, x.HostOffset, im.clusterSize)
	if _, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{}); !errors.Is(err, driver.ErrCorrupt) {
		t.Fatal(err)
	}
	p := make([]byte, 10)
	if _, err := img.ReadAt(ctx, p, 3990); err != nil || string(p) != "guest data" {
		t.Fatalf("%q %v", p, err)
	}
}

// TestSnapshotBatches: passes in several batches, taken back from any of them.
func TestSnapshotBatches(t *testing.T) {
	ctx := context.Background()
	img, _, _ := memImage(t, opts.Dict{"cluster_size": "512", "refcount_bits": "2"})
	defer img.Close(ctx)
	r := make([]byte, 512)
	// Every other cluster: runs that cannot be merged.
	for off := int64(0); off < 1<<20; off += 1024 {
		r[0]++
		if _, err := img.WriteAt(ctx, r, (off*7)%(1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	im := img.Tree().Node().(*image)
	im.refRuns = 50
	for i := range 3 {
		if i == 2 {
			// Some of the clusters have one reference only again: the pass fails late.
			if _, err := img.WriteAt(ctx, make([]byte, 300<<10), 0); err != nil {
				t.Fatal(err)
			}
		}
		_, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{})
		if (err != nil) != (i == 2) {
			t.Fatal(i, err)
		}
	}
	if err := im.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	res, err := im.Check(ctx, driver.CheckFix{}, func(l string) { t.Log(l) }, nil)
	if err != nil || res.Corruptions+res.Leaks+res.CheckErrors != 0 {
		t.Fatal(res, err)
	}
}
