package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// metaBatch is a copy of changed L2 slices and L1 entries, and of the references
// that they no longer hold.
type metaBatch struct {
	l2, l1  *clustertable.Batch
	drops   []drop
	dropped int64
}

// takeTables copies what changed and marks it clean.
func (im *image) takeTables() metaBatch {
	im.meta.Lock()
	defer im.meta.Unlock()
	t := metaBatch{l2: im.cache.Take(), l1: im.l1.Take(), drops: im.drops, dropped: im.dropped}
	t.l2.Begin = func() { im.events.Raise("l2_update") }
	t.l1.Begin = func() { im.events.Raise("l1_update") }
	im.drops, im.dropped = nil, 0
	return t
}

// doneTables ends a writeback: after a failure everything is dirty again.
func (im *image) doneTables(t *metaBatch, err error) {
	im.meta.Lock()
	defer im.meta.Unlock()
	t.l2.Done(err)
	t.l1.Done(err)
	if err != nil {
		im.drops = append(t.drops, im.drops...)
		im.dropped += t.dropped
	}
}

// writeRefcounts writes changed refcount blocks and, behind a barrier, the
// entries of new ones. flushMu is held.
func (im *image) writeRefcounts(ctx context.Context) (wrote bool, err error) {
	a := &im.alloc
	a.mu.Lock()
	blocks, table := a.counts.Take()
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		blocks.Done(err)
		table.Done(err)
		a.mu.Unlock()
	}()
	blocks.Begin = func() { im.events.Raise("refblock_update_part") }
	table.Begin = func() { im.events.Raise("refblock_alloc_hookup") }
	if blocks.Empty() && !table.Empty() {
		// The new blocks were written by growRefcountTable or makeBlock.
		if err = im.file.Flush(ctx); err != nil {
			return false, err
		}
	}
	if err = clustertable.WriteInOrder(ctx, im.file, blocks, table); err != nil {
		return false, err
	}
	return !blocks.Empty() || !table.Empty(), nil
}

// barrier makes guest data and metadata that were written durable.
func (im *image) barrier(ctx context.Context) error {
	im.events.Raise("flush_to_disk")
	if im.external {
		if err := im.data.Flush(ctx); err != nil {
			return err
		}
	}
	return im.file.Flush(ctx)
}

// writeback brings changed metadata to the file in the order that the package
// documentation gives. With durable it returns once all is durable that was
// committed before the call. flushMu is held.
func (im *image) writeback(ctx context.Context, durable, refcounts bool) (err error) {
	t := im.takeTables()
	defer func() {
		im.doneTables(&t, err)
		if err == nil {
			im.whenUnused(t.drops)
		}
	}()
	if err = im.applyReady(ctx); err != nil {
		return err
	}
	if refcounts {
		if _, err = im.writeRefcounts(ctx); err != nil {
			return err
		}
	}
	if t.l2.Empty() && t.l1.Empty() {
		if durable {
			return im.barrier(ctx)
		}
		return nil
	}
	if err = im.barrier(ctx); err != nil {
		return err
	}
	if err = clustertable.WriteInOrder(ctx, im.file, t.l2, t.l1); err != nil {
		return err
	}
	if durable || len(t.drops) > 0 {
		return im.file.Flush(ctx)
	}
	return nil
}

// Thresholds beyond which a change brings earlier ones to the file first.
const (
	maxDropRanges = 8192
	maxDropBytes  = 64 << 20
	minDirty      = 64 // slices
)

// needsWriteback says whether so much is waiting that it should be written.
func (im *image) needsWriteback() bool {
	im.meta.RLock()
	slices := im.cache.Slices()
	limit := slices / 2
	if int64(slices)*im.cache.SliceSize() >= int64(len(im.l1.Entries))*im.clusterSize {
		limit = slices // all tables fit: nothing is gained by writing early
	}
	limit = max(limit, minDirty, int(2*im.clusterSize/im.cache.SliceSize()))
	many := im.cache.Dirty() > limit || len(im.drops) > maxDropRanges || im.dropped > maxDropBytes
	im.meta.RUnlock()
	return many || im.alloc.readyLen.Load() > maxDropBytes || im.alloc.needsWriteback()
}

func (a *allocator) needsWriteback() bool {
	return a.counts.NeedsWriteback()
}

// relieve writes metadata back if a lot is waiting. No lock is held.
func (im *image) relieve(ctx context.Context) error {
	if !im.needsWriteback() {
		return nil
	}
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if !im.needsWriteback() {
		return nil
	}
	return im.writeback(ctx, false, true)
}

// Flush makes everything durable that was written and committed. What was given
// up before can be allocated again, unless it is being read.
func (im *image) Flush(ctx context.Context) error {
	if !im.writable {
		return nil
	}
	im.events.Raise("flush_to_os")
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.writeback(ctx, true, !im.postponed()); err != nil {
		return err
	}
	return im.applyReady(ctx)
}

// postponed says whether refcounts may wait: the dirty bit protects them.
func (im *image) postponed() bool {
	return im.lazy && im.version >= 3 && im.begun.Load()
}

// writebackAll writes everything, frees what waits to be freed, and writes that.
// flushMu is held and no request is under way.
func (im *image) writebackAll(ctx context.Context) error {
	if err := im.writeback(ctx, true, true); err != nil {
		return err
	}
	// What the first pass dropped is free now; growing a table in between may
	// have added more.
	if err := im.applyReady(ctx); err != nil {
		return err
	}
	wrote, err := im.writeRefcounts(ctx)
	if err != nil || !wrote {
		return err
	}
	return im.file.Flush(ctx)
}

// Close writes everything back.
func (im *image) Close(ctx context.Context) error {
	defer im.release()
	if !im.writable || im.access.Check && !im.begun.Load() {
		return nil
	}
	if !im.begun.Load() {
		return nil
	}
	bitmapErr := im.bm.Store(ctx)
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.writebackAll(ctx); err != nil {
		return err
	}
	if err := im.coverEnd(ctx); err != nil {
		return err
	}
	if im.lazy && !im.refused.Load() {
		if err := im.setIncompatible(ctx, 0, ondisk.IncompatDirty); err != nil {
			return err
		}
	}
	return bitmapErr
}

// coverEnd grows the file to the end of the last cluster in use: writers may
// have left out zeroes there.
func (im *image) coverEnd(ctx context.Context) error {
	a := &im.alloc
	a.mu.Lock()
	end := a.fresh
	if b := a.freeByte; b != 0 && im.alignUp(b) == end {
		end = (b + ondisk.CompressedSector - 1) &^ (ondisk.CompressedSector - 1) // the last cluster is not full
	}
	for end > im.file.Size() {
		v, err := a.counts.Get(ctx, (end-1)>>im.clusterBits)
		if err != nil {
			a.mu.Unlock()
			return err
		}
		if v != 0 {
			break
		}
		end = im.alignDown(end - 1)
	}
	a.mu.Unlock()
	if end <= im.file.Size() || a.fileLimit > 0 {
		return nil
	}
	if r, ok := im.file.(driver.Resizer); ok {
		if err := r.Resize(ctx, end, driver.ResizeOptions{}); err == nil {
			return nil
		}
	}
	_, err := im.file.WriteAt(ctx, []byte{0}, end-1)
	return err
}
