package qcow2

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/snaptable"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// loadSnapshots reads the snapshot table (section "Snapshots").
func (im *image) loadSnapshots(ctx context.Context) (err error) {
	im.snap = snaptable.Table{}
	if im.snapshotDamage != nil {
		return nil // the header names no place that can be one
	}
	im.snap, err = snaptable.Read(ctx, snaptable.Request{File: im.file, Offset: int64(im.hdr.SnapshotsOffset), Count: im.hdr.NbSnapshots,
		DiskSize: im.hdr.Size, Reserve: im.reserve, CheckL1: func(s *ondisk.Snapshot) error {
			return im.checkTable(s.L1TableOffset, int64(s.L1Size), 8, ondisk.MaxL1Bytes, "snapshot L1 table")
		}})
	return err
}

// OpenSnapshot shows the disk as the snapshot holds it.
func (im *image) OpenSnapshot(ctx context.Context, idOrName string) error {
	if im.writable {
		return driver.Errorf(driver.ErrUnsupported, "a snapshot can be shown in an image that is open for reading only")
	}
	if im.snapshotDamage != nil {
		return im.snapshotDamage
	}
	s := im.snap.Find(idOrName)
	if s == nil {
		return driver.Errorf(driver.ErrInvalid, "can't find snapshot")
	}
	if im.l1Entries(int64(s.DiskSize)) > int64(s.L1Size) {
		return driver.Errorf(driver.ErrCorrupt, "snapshot L1 table is too small")
	}
	if err := im.reserve("Snapshot L1 table", int64(s.L1Size)*8); err != nil {
		return err
	}
	l1, err := im.readTable(ctx, int64(s.L1TableOffset), int64(s.L1Size))
	if err != nil {
		return driver.Errorf(driver.ErrCorrupt, "failed to read snapshot L1 table: %w", err)
	}
	im.meta.Lock()
	defer im.meta.Unlock()
	im.l1 = clustertable.NewRoot(l1, int64(s.L1TableOffset), binary.BigEndian)
	im.size.Store(ondisk.WholeSectors(s.DiskSize))
	return nil
}
