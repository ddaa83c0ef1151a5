package qcow2

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/opts"
)

// TestShortSnapshotEntries: entries of version 2 need not say how large the disk was.
// Whatever writes the table again says it, and so does an upgrade to version 3, which
// demands it.
func TestShortSnapshotEntries(t *testing.T) {
	ctx := context.Background()
	for name, change := range map[string]func(img *block.Image) error{
		"create": func(img *block.Image) error {
			_, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "c", Date: time.Unix(1, 0)})
			return err
		},
		"delete": func(img *block.Image) error { return img.Snapshots().Delete(ctx, "2", "b") },
		"upgrade": func(img *block.Image) error {
			return img.Tree().Node().(driver.Amender).Amend(ctx, &driver.AmendRequest{Options: opts.Dict{"compat": "1.1"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			img, disk, open := memImage(t, opts.Dict{"cluster_size": "4k", "compat": "0.10"})
			for _, name := range []string{"a", "b"} {
				if _, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: name, Date: time.Unix(1, 0)}); err != nil {
					t.Fatal(err)
				}
			}
			im := img.Tree().Node().(*image)
			at := int64(im.hdr.SnapshotsOffset)
			var table []byte
			for i, known := range []int{0, 8} {
				entry := im.snap.Entries[i].Append(nil, 0)
				binary.BigEndian.PutUint32(entry[36:], uint32(known))
				names := entry[ondisk.SnapshotFixedSize+ondisk.SnapshotExtraKnown:][:len("1a")]
				table = append(append(table, entry[:ondisk.SnapshotFixedSize+known]...), names...)
				table = append(table, make([]byte, -len(table)&7)...)
			}
			if err := img.Close(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := disk.WriteAt(ctx, append(table, make([]byte, 64)...), at); err != nil {
				t.Fatal(err)
			}
			img = open()
			if err := change(img); err != nil {
				t.Fatal(err)
			}
			if err := img.Close(ctx); err != nil {
				t.Fatal(err)
			}
			img = open()
			defer img.Close(ctx)
			im = img.Tree().Node().(*image)
			if im.snap.Short || len(im.snap.Entries) == 0 {
				t.Errorf("entries of the table are still short, or gone: %+v", im.snap.Entries)
			}
			for _, s := range im.snap.Entries {
				if s.DiskSize != 1<<20 {
					t.Errorf("snapshot %q has a disk of %d bytes", s.Name, s.DiskSize)
				}
			}
			res, err := im.Check(ctx, driver.CheckFix{}, func(l string) { t.Log(l) }, nil)
			if err != nil || res.Corruptions+res.Leaks+res.CheckErrors != 0 {
				t.Error(res, err)
			}
		})
	}
}

// TestTooManySnapshots: a repair leaves the snapshots that may stay in their place and
// lets the header name no others. To write the table again would take room, and until
// then the header would name what was given back.
func TestTooManySnapshots(t *testing.T) {
	ctx := context.Background()
	img, disk, _ := memImage(t, opts.Dict{"cluster_size": "64k", "compat": "0.10"})
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	const table, dropped = 1 << 20, 3 // what the file lacks are entries that are all zero
	field := binary.BigEndian.AppendUint32(nil, ondisk.MaxSnapshots+dropped)
	field = binary.BigEndian.AppendUint64(field, table)
	if _, err := disk.WriteAt(ctx, field, ondisk.SnapshotsOffset); err != nil {
		t.Fatal(err)
	}
	if err := disk.Resize(ctx, table+(ondisk.MaxSnapshots+dropped)*ondisk.SnapshotFixedSize, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	im, err := openForCheck(t, disk, true)
	if err != nil {
		t.Fatal(err)
	}
	res, err := im.Check(ctx, driver.CheckFix{Leaks: true, Errors: true}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.Corruptions+res.CheckErrors != 0 || res.CorruptionsFixed < dropped {
		t.Errorf("%+v", *res)
	}
	var b [12]byte
	if _, err := disk.ReadAt(ctx, b[:], ondisk.SnapshotsOffset); err != nil {
		t.Fatal(err)
	}
	if n, at := binary.BigEndian.Uint32(b[:]), binary.BigEndian.Uint64(b[4:]); n != ondisk.MaxSnapshots || at != table {
		t.Errorf("the header names %d snapshots at %d, want %d at %d", n, at, ondisk.MaxSnapshots, table)
	}
}
