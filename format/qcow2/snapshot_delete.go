package qcow2

import (
	"cmp"
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// DeleteSnapshot removes a snapshot. Order on disk: the new snapshot table;
// barrier; the header names it; barrier; the references of the snapshot taken
// away; barrier; copied flags of the active tables set where no other reference is left.
func (im *image) DeleteSnapshot(ctx context.Context, id, name string) error {
	if err := im.canSnapshot(); err != nil {
		return err
	}
	im.resizeMu.Lock()
	defer im.resizeMu.Unlock()
	im.tableMu.Lock()
	defer im.tableMu.Unlock()
	i := slices.IndexFunc(im.snap.Entries, func(s ondisk.Snapshot) bool { return s.ID == id && s.Name == name })
	if i < 0 {
		return driver.Errorf(driver.ErrNoSnapshot, "can't find the snapshot")
	}
	s := im.snap.Entries[i]
	l1Bytes := int64(s.L1Size) * 8
	if err := im.env.Budget.Table("Snapshot L1 table", l1Bytes); err != nil {
		return err
	}
	defer im.env.Budget.Release(l1Bytes)
	l1, err := im.readTable(ctx, int64(s.L1TableOffset), int64(s.L1Size))
	if err != nil {
		return driver.Errorf(driver.ErrCorrupt, "failed to read snapshot L1 table: %w", err)
	}
	list := slices.Delete(slices.Clone(im.snap.Entries), i, i+1)
	op, err := im.beginSnapshot(ctx, list)
	if err != nil {
		return err
	}
	defer op.end()
	gone, err := im.tablesOf(l1)
	var active namedTables
	if err == nil {
		active, err = im.tablesOf(im.l1.Entries)
	}
	if err == nil {
		err = op.writeTable(ctx)
	}
	if err != nil {
		return op.cancel(ctx, err)
	}
	// From here on the snapshot is gone, whatever becomes of ctx.
	ctx = context.WithoutCancel(ctx)
	if err := op.commitTable(ctx); err != nil {
		return err
	}
	err = im.lowerTables(ctx, gone, -1)
	err = cmp.Or(err, im.flushRefcounts(ctx))
	if err == nil {
		// With refcounts that are not what they should be a flag could be wrong.
		err = op.ownActive(ctx, active)
	}
	err = cmp.Or(err, im.lowerClusters(ctx, int64(s.L1TableOffset), l1Bytes))
	err = cmp.Or(err, op.dropOldTable(ctx))
	return op.finish(ctx, err)
}

// ownActive sets the copied flags of active tables where the references that were
// taken away leave one.
func (op *snapshotOp) ownActive(ctx context.Context, active namedTables) error {
	im := op.im
	err := im.syncCopied(ctx, active)
	var l1 []uint64
	if err == nil {
		l1, err = im.copiedL1(ctx, im.l1.Entries)
	}
	if err == nil {
		err = im.writeL1(ctx, l1, im.l1.Entries)
	}
	if err != nil {
		im.reload(nil)
		return err
	}
	im.reload(l1)
	return im.file.Flush(ctx)
}
