package qcow2

import (
	"cmp"
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/snaptable"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// While a snapshot operation works, refcounts and copied flags cannot agree at
// every moment: they are in different places. In between, the flags err on the
// safe side (none on what anybody else refers to), refcounts are too high at
// most, and version 3 images have the dirty bit set, so that a program that opens them
// after a crash brings the two together again. The operation itself takes effect
// with one write to the header.

// snapshotOp is a snapshot operation under way. flushMu, tableMu and resizeMu are
// held, all metadata is in the file and the disk does not change.
type snapshotOp struct {
	im      *image
	list    []ondisk.Snapshot // afterwards
	table   []byte            // of list, encoded
	room    span              // for the table
	rooms   []span            // all that was allocated for the operation
	dirtied bool              // the operation set the dirty bit, and clears it
}

// canSnapshot says whether the image can have snapshots at all.
func (im *image) canSnapshot() error {
	switch {
	case im.refused.Load():
		return driver.Errorf(driver.ErrCorrupt, "image is corrupt: writing is no longer possible")
	case !im.writable:
		return driver.Errorf(driver.ErrReadOnly, "image is read-only")
	case im.external:
		return driver.Errorf(driver.ErrUnsupported, "images with an external data file have no internal snapshots")
	}
	return nil
}

// snapshotRoom allocates clusters for n bytes, which the span that it returns has. flushMu is not held.
func (im *image) snapshotRoom(ctx context.Context, n int64) (span, error) {
	if n == 0 {
		return span{}, nil
	}
	clusters := im.clusters(n)
	off, _, _, err := im.allocRun(ctx, clusters, clusters)
	room := span{off: off, end: off + n}
	if err != nil {
		return span{}, err
	}
	return room, nil
}

// holdRooms gives what was allocated for the operation room on disk, so that what is
// to be written there cannot fail for want of it when flags were cleared. It is called
// after raiseTables, which finds out whether the image uses what it counts as free.
func (op *snapshotOp) holdRooms(ctx context.Context) error {
	for _, r := range op.rooms {
		if err := clustertable.WriteZeroes(ctx, op.im.file, r.off, r.end-r.off); err != nil {
			return err
		}
	}
	return nil
}

// beginSnapshot starts an operation that changes the snapshot table to list; nil
// leaves it. rooms were allocated for the operation before: they are given back
// if it fails. The caller calls end.
func (im *image) beginSnapshot(ctx context.Context, list []ondisk.Snapshot, rooms ...span) (*snapshotOp, error) {
	op := &snapshotOp{im: im, list: list, rooms: rooms}
	op.table = snaptable.Encode(list)
	var err error
	if len(op.table) > ondisk.MaxSnapshotTableBytes {
		err = driver.Errorf(driver.ErrTooLarge, "file too large")
	} else if op.room, err = im.snapshotRoom(ctx, int64(len(op.table))); err == nil {
		op.rooms = append(op.rooms, op.room)
	}
	im.flushMu.Lock()
	if err == nil {
		err = im.writebackAll(ctx)
	}
	if err == nil && !im.dirty() && im.version >= 3 {
		op.dirtied = true
		err = im.setIncompatible(ctx, ondisk.IncompatDirty, 0)
	}
	if err != nil {
		err = op.cancel(ctx, err)
		op.end()
		return nil, err
	}
	return op, nil
}

// dirty says whether the dirty bit is set.
func (im *image) dirty() bool {
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	return im.hdr.Incompatible&ondisk.IncompatDirty != 0
}

func (op *snapshotOp) end() { op.im.flushMu.Unlock() }

// cancel ends an operation that has not changed anything that is referred to, and
// returns err.
func (op *snapshotOp) cancel(ctx context.Context, err error) error {
	ctx = context.WithoutCancel(ctx)
	im := op.im
	for _, r := range op.rooms {
		im.freeNow(ctx, r.off, r.end-r.off)
	}
	if im.flushRefcounts(ctx) == nil && op.dirtied {
		_ = im.setIncompatible(ctx, 0, ondisk.IncompatDirty)
	}
	return err
}

// writeTable writes the new snapshot table to its room.
func (op *snapshotOp) writeTable(ctx context.Context) error {
	return op.im.writeRoom(ctx, op.table, op.room)
}

// commitTable makes everything durable and lets the header name the new table.
func (op *snapshotOp) commitTable(ctx context.Context) error {
	im := op.im
	if err := im.file.Flush(ctx); err != nil {
		im.refused.Store(true) // what is on disk is not known
		return err
	}
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	field := binary.BigEndian.AppendUint32(nil, uint32(len(op.list)))
	field = binary.BigEndian.AppendUint64(field, uint64(op.room.off))
	if err := im.writeHeaderField(ctx, ondisk.SnapshotsOffset, field); err != nil {
		im.refused.Store(true) // which table the header names is not known
		return err
	}
	old := span{off: int64(im.hdr.SnapshotsOffset), end: int64(im.hdr.SnapshotsOffset) + im.snap.Bytes}
	if im.hdr.NbSnapshots == 0 {
		old = span{}
	}
	im.hdr.NbSnapshots, im.hdr.SnapshotsOffset = uint32(len(op.list)), uint64(op.room.off)
	im.snap = snaptable.Table{Entries: op.list, Bytes: int64(len(op.table))}
	op.room = old
	return nil
}

// completeSnapshots writes the snapshot table anew with all that version 3 demands of
// its entries, unless they have it.
func (im *image) completeSnapshots(ctx context.Context) error {
	if !im.snap.Short {
		return nil
	}
	im.resizeMu.Lock()
	defer im.resizeMu.Unlock()
	im.tableMu.Lock()
	defer im.tableMu.Unlock()
	op, err := im.beginSnapshot(ctx, im.snap.Entries)
	if err != nil {
		return err
	}
	defer op.end()
	if err := op.writeTable(ctx); err != nil {
		return op.cancel(ctx, err)
	}
	ctx = context.WithoutCancel(ctx)
	if err := op.commitTable(ctx); err != nil {
		return err
	}
	return op.finish(ctx, op.dropOldTable(ctx))
}

// dropOldTable gives the room of the old snapshot table back. commitTable was
// called.
func (op *snapshotOp) dropOldTable(ctx context.Context) error {
	return op.im.lowerClusters(ctx, op.room.off, op.room.end-op.room.off)
}

// finish ends an operation that took effect. failed is what went wrong while room
// was given back: then the dirty bit stays, so that a check finds the leaks.
func (op *snapshotOp) finish(ctx context.Context, failed error) error {
	im := op.im
	im.codec.Forget()
	im.recurse.Store(0)
	im.alloc.mu.Lock()
	im.alloc.holdSpans()
	failed = cmp.Or(failed, im.alloc.listMetadata(ctx))
	im.alloc.mu.Unlock()
	failed = cmp.Or(failed, im.flushRefcounts(ctx))
	if failed == nil && op.dirtied {
		failed = im.setIncompatible(ctx, 0, ondisk.IncompatDirty)
	}
	if failed != nil {
		return driver.Errorf(driver.ErrCorrupt, "failed to free the cluster and L1 table: %w", failed)
	}
	return nil
}

// flushRefcounts makes refcounts durable.
func (im *image) flushRefcounts(ctx context.Context) error {
	if _, err := im.writeRefcounts(ctx); err != nil {
		return err
	}
	return im.file.Flush(ctx)
}

// reload forgets the L2 tables in memory, which the file has newer, and takes over
// the L1 table if it is not nil.
func (im *image) reload(l1 []uint64) {
	im.meta.Lock()
	defer im.meta.Unlock()
	if l1 != nil {
		im.l1.Entries = l1
	}
	im.cache.Reset()
}
