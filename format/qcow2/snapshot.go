package qcow2

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
	"github.com/cowl-disk/cowl/internal/safeio"
	"github.com/cowl-disk/cowl/qapi"
)

// loadSnapshots reads the snapshot table (section "Snapshots").
func (im *image) loadSnapshots(ctx context.Context) error {
	im.snapshots, im.snapshotsShort = nil, false
	if im.snapshotDamage != nil {
		return nil // the header names no place that can be one
	}
	off := int64(im.hdr.SnapshotsOffset)
	start, chunk := off, int64(64<<10)
	var buf []byte
	for i := range im.hdr.NbSnapshots {
		var s ondisk.Snapshot
		var n int
		for {
			var err error
			if s, n, err = ondisk.DecodeSnapshot(buf); err == nil {
				break
			}
			if len(buf) >= 40 {
				if extra := int64(be32(buf[36:])); extra > ondisk.MaxSnapshotExtra {
					return driver.Errorf(driver.ErrCorrupt, "Too much extra metadata in snapshot table entry %d", i)
				}
			}
			// The longest entry has names of 64 KiB each.
			next := min(int64(len(buf))+chunk, im.file.Size()-off)
			if next <= int64(len(buf)) {
				return driver.Errorf(driver.ErrCorrupt, "Could not read snapshots: snapshot table entry %d is truncated", i)
			}
			if buf, err = safeio.ReadAt(ctx, im.file, off, next); err != nil {
				return driver.Errorf(driver.ErrCorrupt, "Could not read snapshots: %w", err)
			}
		}
		if len(s.ExtraUnknown) > ondisk.MaxSnapshotExtra {
			return driver.Errorf(driver.ErrCorrupt, "Too much extra metadata in snapshot table entry %d", i)
		}
		off += int64(n)
		buf = buf[n:]
		if off-start > ondisk.MaxSnapshotTableBytes {
			return driver.Errorf(driver.ErrCorrupt, "Snapshot table is too big")
		}
		if !s.HasDiskSize {
			// Only version 2 may have such entries: the size of the disk cannot change
			// there while it has snapshots. The next table says it.
			s.DiskSize, s.HasDiskSize = im.hdr.Size, true
			im.snapshotsShort = true
		}
		if s.DiskSize > ondisk.MaxSnapshotDisk {
			return driver.Errorf(driver.ErrCorrupt, "Snapshot %q has an invalid disk size", s.ID)
		}
		if err := im.checkTable(s.L1TableOffset, int64(s.L1Size), 8, ondisk.MaxL1Bytes, "Snapshot L1 table"); err != nil {
			return err
		}
		if err := im.reserve("Snapshot table", int64(n)); err != nil {
			return err
		}
		im.snapshots = append(im.snapshots, s)
	}
	im.snapshotBytes = off - start
	return nil
}

// OpenSnapshot shows the disk as the snapshot holds it.
func (im *image) OpenSnapshot(ctx context.Context, idOrName string) error {
	if im.writable {
		return driver.Errorf(driver.ErrUnsupported, "a snapshot can be shown in an image that is open for reading only")
	}
	if im.snapshotDamage != nil {
		return im.snapshotDamage
	}
	s := im.findSnapshot(idOrName)
	if s == nil {
		return driver.Errorf(driver.ErrInvalid, "Can't find snapshot")
	}
	if im.l1Entries(int64(s.DiskSize)) > int64(s.L1Size) {
		return driver.Errorf(driver.ErrCorrupt, "Snapshot L1 table is too small")
	}
	if err := im.reserve("Snapshot L1 table", int64(s.L1Size)*8); err != nil {
		return err
	}
	l1, err := im.readTable(ctx, int64(s.L1TableOffset), int64(s.L1Size))
	if err != nil {
		return driver.Errorf(driver.ErrCorrupt, "Failed to read snapshot L1 table: %w", err)
	}
	im.meta.Lock()
	defer im.meta.Unlock()
	im.l1 = clustertable.NewRoot(l1, int64(s.L1TableOffset), binary.BigEndian)
	im.size.Store(ondisk.WholeSectors(s.DiskSize))
	return nil
}

// findSnapshot looks for an id first, then for a name.
func (im *image) findSnapshot(idOrName string) *ondisk.Snapshot {
	for i := range im.snapshots {
		if im.snapshots[i].ID == idOrName {
			return &im.snapshots[i]
		}
	}
	for i := range im.snapshots {
		if im.snapshots[i].Name == idOrName {
			return &im.snapshots[i]
		}
	}
	return nil
}

func snapshotInfo(s *ondisk.Snapshot) qapi.SnapshotInfo {
	info := qapi.SnapshotInfo{ID: s.ID, Name: s.Name, VMStateSize: int64(s.VMStateSize),
		DateSec: int64(s.DateSec), DateNsec: int64(s.DateNsec),
		VMClockSec: int64(s.VMClockNsec / 1e9), VMClockNsec: int64(s.VMClockNsec % 1e9)}
	if s.HasIcount {
		icount := int64(s.Icount)
		info.Icount = &icount
	}
	return info
}
