package qcow2

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/snaptable"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// CreateSnapshot keeps the disk as it is now. Order on disk: places for the new
// tables and a reference more to all that the disk uses; barrier; copied flags of
// the active tables cleared, the new tables; barrier; the header names them.
func (im *image) CreateSnapshot(ctx context.Context, req driver.SnapshotRequest) (string, error) {
	if err := im.canSnapshot(); err != nil {
		return "", err
	}
	if len(req.Name) > driver.MaxSnapshotName {
		return "", driver.Errorf(driver.ErrInvalid, "the name of a snapshot may have %d bytes, this one has %d", driver.MaxSnapshotName, len(req.Name))
	}
	im.resizeMu.Lock()
	defer im.resizeMu.Unlock()
	im.tableMu.Lock()
	defer im.tableMu.Unlock()
	if len(im.snap.Entries) >= ondisk.MaxSnapshots {
		return "", driver.Errorf(driver.ErrTooLarge, "file too large")
	}
	s := ondisk.Snapshot{
		ID: snaptable.NextID(im.snap.Entries), Name: req.Name, L1Size: uint32(len(im.l1.Entries)),
		DateSec: uint32(req.Date.Unix()), DateNsec: uint32(req.Date.Nanosecond()),
		DiskSize: uint64(im.size.Load()), HasDiskSize: true, HasIcount: true,
	}
	l1Room, err := im.snapshotRoom(ctx, im.l1.Bytes())
	if err != nil {
		return "", err
	}
	s.L1TableOffset = uint64(l1Room.off)
	op, err := im.beginSnapshot(ctx, append(slices.Clone(im.snap.Entries), s), l1Room)
	if err != nil {
		return "", err
	}
	defer op.end()
	active, err := im.tablesOf(im.l1.Entries)
	if err == nil {
		err = op.raiseTables(ctx, active)
	}
	if err != nil {
		return "", op.cancel(ctx, err)
	}
	if err := op.holdRooms(ctx); err != nil {
		im.lowerTables(context.WithoutCancel(ctx), active, -1)
		return "", op.cancel(ctx, err)
	}
	l1, err := op.keepActive(ctx, active, l1Room)
	if err == nil {
		err = op.writeTable(ctx)
	}
	if err != nil {
		return "", op.undo(ctx, active, err)
	}
	// From here on the snapshot exists, whatever becomes of ctx.
	ctx = context.WithoutCancel(ctx)
	if err := op.commitTable(ctx); err != nil {
		return "", err
	}
	im.reload(l1)
	return s.ID, op.finish(ctx, op.dropOldTable(ctx))
}

// undo takes back what keepActive did of its work before it failed with err: the
// references, and then the flags that were cleared. Where that fails too, some
// flags stay missing; the dirty bit stays then, where there is one.
func (op *snapshotOp) undo(ctx context.Context, active namedTables, err error) error {
	ctx = context.WithoutCancel(ctx)
	im := op.im
	im.reload(nil)
	failed := im.lowerTables(ctx, active, -1)
	failed = cmp.Or(failed, im.flushRefcounts(ctx))
	if failed == nil {
		failed = im.syncCopied(ctx, active)
	}
	if failed == nil {
		// The table in memory is that from before; the file may have lost flags.
		failed = im.writeL1(ctx, im.l1.Entries, make([]uint64, len(im.l1.Entries)))
	}
	if failed != nil {
		op.dirtied = false
	}
	return op.cancel(ctx, err)
}

// keepActive makes the references that were added durable, clears the copied
// flags of the active tables and copies the L1 table to room. It returns the L1
// table as the file has it now.
func (op *snapshotOp) keepActive(ctx context.Context, active namedTables, room span) ([]uint64, error) {
	im := op.im
	if err := im.flushRefcounts(ctx); err != nil {
		return nil, err
	}
	if err := im.syncCopied(ctx, active); err != nil {
		return nil, err
	}
	l1, err := im.copiedL1(ctx, im.l1.Entries)
	if err != nil {
		return nil, err
	}
	if err := im.writeL1(ctx, l1, im.l1.Entries); err != nil {
		return nil, err
	}
	return l1, im.writeRoom(ctx, tableio.EncodeWords(l1), room)
}

// writeL1 writes the sectors of the active L1 table in which l1 differs from old.
func (im *image) writeL1(ctx context.Context, l1, old []uint64) error {
	return clustertable.Difference(im.l1.Off, old, l1, binary.BigEndian).Write(ctx, im.file)
}

// writeRoom writes b at the start of room, and no more: what is behind it in its
// last cluster means nothing, and would take room on disk.
func (im *image) writeRoom(ctx context.Context, b []byte, room span) error {
	if len(b) == 0 {
		return nil
	}
	_, err := im.file.WriteAt(ctx, b, room.off)
	return err
}
