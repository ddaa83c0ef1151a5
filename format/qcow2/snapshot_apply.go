package qcow2

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// ApplySnapshot makes the disk what it was. Order on disk: a reference more to all
// that the snapshot uses; barrier; copied flags of its tables cleared, its L1
// table copied to a new place; barrier; the header names that, with the size of
// the disk; barrier; the references of the former disk taken away.
//
// On a full file system the L1 table is copied over that of the disk, as QEMU
// always does, if it is long enough. A crash while it is written may leave a disk of
// which a part is that of the snapshot; applying it once more completes it.
func (im *image) ApplySnapshot(ctx context.Context, idOrName string) error {
	if err := im.canSnapshot(); err != nil {
		return err
	}
	im.resizeMu.Lock()
	defer im.resizeMu.Unlock()
	if im.bm.Any() {
		return driver.Errorf(driver.ErrBitmaps, "device has active dirty bitmaps")
	}
	im.tableMu.Lock()
	defer im.tableMu.Unlock()
	s := im.snap.Find(idOrName)
	if s == nil {
		return driver.Errorf(driver.ErrNoSnapshot, "can't find the snapshot")
	}
	size := int64(s.DiskSize)
	if size != im.size.Load() && im.version < 3 {
		return driver.Errorf(driver.ErrUnsupported, "can't resize a v2 image which has snapshots")
	}
	if size != im.size.Load() && size%512 != 0 {
		return driver.Errorf(driver.ErrInvalid, "the new size must be a multiple of 512")
	}
	n := max(int64(len(im.l1.Entries)), int64(s.L1Size), im.l1Entries(size))
	if n*8 > ondisk.MaxL1Bytes {
		return driver.Errorf(driver.ErrTooLarge, "failed to grow the L1 table: file too large")
	}
	if err := im.env.Budget.Table("Snapshot L1 table", n*8); err != nil {
		return err
	}
	defer im.env.Budget.Release(n * 8)
	l1, err := im.readTable(ctx, int64(s.L1TableOffset), int64(s.L1Size))
	if err != nil {
		return driver.Errorf(driver.ErrCorrupt, "failed to read snapshot L1 table: %w", err)
	}
	l1 = append(l1, make([]uint64, n-int64(len(l1)))...)
	room, err := im.snapshotRoom(ctx, n*8)
	inPlace := errors.Is(err, driver.ErrNoSpace) && n == int64(len(im.l1.Entries))
	if err != nil && !inPlace {
		return err
	}
	op, err := im.beginSnapshot(ctx, nil, room)
	if err != nil {
		return err
	}
	defer op.end()
	kept, err := im.tablesOf(l1)
	var former namedTables
	if err == nil {
		former, err = im.tablesOf(im.l1.Entries)
	}
	if err == nil {
		err = op.raiseTables(ctx, kept)
	}
	if err != nil {
		return op.cancel(ctx, err)
	}
	if err := op.holdRooms(ctx); errors.Is(err, driver.ErrNoSpace) && n == int64(len(im.l1.Entries)) {
		im.freeNow(ctx, room.off, room.end-room.off)
		op.rooms, inPlace = nil, true
	} else if err != nil {
		im.lowerTables(context.WithoutCancel(ctx), kept, -1)
		return op.cancel(ctx, err)
	}
	if inPlace {
		room = span{off: im.l1.Off, end: im.l1.Off + n*8}
	}
	if l1, err = op.copyL1(ctx, l1, kept, room); err != nil && inPlace {
		im.refused.Store(true) // which entries the file has is not known
		return err
	}
	if err != nil {
		im.reload(nil)
		im.lowerTables(context.WithoutCancel(ctx), kept, -1)
		return op.cancel(ctx, err)
	}
	// From here on the snapshot is applied, whatever becomes of ctx.
	ctx = context.WithoutCancel(ctx)
	old, err := op.switchL1(ctx, l1, room.off, size)
	if err != nil {
		return err
	}
	// Whoever looked at the former tables may still be reading.
	unused := make(chan struct{})
	im.env.Guard.Defer(func() { close(unused) })
	<-unused
	err = im.lowerTables(ctx, former, -1)
	if inPlace {
		return op.finish(ctx, err)
	}
	if e := im.lowerClusters(ctx, old.off, old.end-old.off); err == nil {
		err = e
	}
	return op.finish(ctx, err)
}

// copyL1 makes the references that were added durable, clears copied flags in the
// tables of the snapshot and writes its L1 table, without flags, to room. What
// the snapshot and the disk share has none.
func (op *snapshotOp) copyL1(ctx context.Context, l1 []uint64, kept namedTables, room span) ([]uint64, error) {
	im := op.im
	if err := im.flushRefcounts(ctx); err != nil {
		return nil, err
	}
	if err := im.syncCopied(ctx, kept); err != nil {
		return nil, err
	}
	l1, err := im.copiedL1(ctx, l1)
	if err != nil {
		return nil, err
	}
	if err := im.writeRoom(ctx, tableio.EncodeWords(l1), room); err != nil {
		return nil, err
	}
	return l1, im.file.Flush(ctx)
}

// switchL1 lets the header name another L1 table and size of the disk, in one
// write, and shows that disk. It returns where the former table is.
func (op *snapshotOp) switchL1(ctx context.Context, l1 []uint64, off, size int64) (old span, err error) {
	im := op.im
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	h := im.hdr
	h.Size, h.L1Size, h.L1TableOffset = uint64(size), uint32(len(l1)), uint64(off)
	// Size, encryption method, entries and place of the L1 table follow each other.
	field := binary.BigEndian.AppendUint64(nil, h.Size)
	field = binary.BigEndian.AppendUint32(field, h.CryptMethod)
	field = binary.BigEndian.AppendUint32(field, h.L1Size)
	field = binary.BigEndian.AppendUint64(field, h.L1TableOffset)
	if err := im.writeHeaderField(ctx, ondisk.SizeOffset, field); err != nil {
		im.refused.Store(true) // which table the header names is not known
		return span{}, err
	}
	im.hdr = h
	im.meta.Lock()
	defer im.meta.Unlock()
	old = span{off: im.l1.Off, end: im.l1.Off + im.l1.Bytes()}
	im.l1 = clustertable.NewRoot(slices.Clip(l1), off, binary.BigEndian)
	im.cache.Reset()
	im.size.Store(size)
	return old, nil
}
