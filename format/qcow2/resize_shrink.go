package qcow2

import (
	"context"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// shrink cuts the disk. Mappings go first, then the size, then the end of the
// file.
func (im *image) shrink(ctx context.Context, old, size int64, opt driver.ResizeOptions) error {
	c0, c1 := im.clusters(size), im.clusters(old)
	p, err := im.pend.Reserve(ctx, c0, c1)
	if err != nil {
		return err
	}
	err = im.cutClusters(ctx, c0, c1, discardAlways)
	im.pend.Remove(p)
	if err != nil {
		return driver.Errorf(nil, "failed to discard cropped clusters: %w", err)
	}
	if im.external {
		if r, ok := im.data.(driver.Resizer); ok {
			if err := r.Resize(ctx, size, driver.ResizeOptions{Exact: opt.Exact}); err != nil {
				return err
			}
		}
	}
	if err := im.Flush(ctx); err != nil {
		return err
	}
	if err := im.writeSize(ctx, size); err != nil {
		return err
	}
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.writebackAll(ctx); err != nil {
		return err
	}
	if err := im.shrinkRefcounts(ctx); err != nil {
		return driver.Errorf(nil, "failed to discard unused refblocks: %w", err)
	}
	return im.cutFile(ctx)
}

// cutClusters unmaps guest clusters [c0, c1), which end the disk, and gives up
// the L2 tables that map nothing else, for the reason how.
func (im *image) cutClusters(ctx context.Context, c0, c1 int64, how discardKind) error {
	perTable := int64(1) << im.l2Bits
	whole := (c0 + perTable - 1) / perTable * perTable
	err := im.changeReserved(ctx, c0, min(c1, whole), changeOptions{how: how,
		edit: func(int64, ondisk.L2Entry) (ondisk.L2Entry, bool) { return ondisk.L2Entry{}, true }})
	if err != nil {
		return err
	}
	perSlice := im.cache.SliceSize() / im.l2EntrySize
	for l1 := whole / perTable; l1 < (c1+perTable-1)/perTable; l1++ {
		if err := im.relieve(ctx); err != nil {
			return err
		}
		im.tableMu.Lock()
		table, _ := im.tableOffset(l1)
		if table == 0 {
			im.tableMu.Unlock()
			continue
		}
		err := im.cutTable(ctx, l1, perTable, perSlice, table, how)
		im.tableMu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// cutTable drops a whole L2 table and what it maps. tableMu is held.
func (im *image) cutTable(ctx context.Context, l1, perTable, perSlice, table int64, how discardKind) error {
	var gone []ondisk.L2Entry
	for c := l1 * perTable; c < (l1+1)*perTable; {
		if err := im.needSlices(ctx, c, c+1); err != nil {
			return err
		}
		im.meta.RLock()
		s, _, _ := im.sliceFor(c)
		if s == nil {
			im.meta.RUnlock()
			continue
		}
		for i := range int(perSlice) {
			if e := ondisk.LoadL2(s.Data, i, im.extended); im.kind(e) != kindUnallocated && im.badEntry(e) == "" {
				gone = append(gone, e)
			}
		}
		im.meta.RUnlock()
		c += perSlice
	}
	im.meta.Lock()
	defer im.meta.Unlock()
	for _, e := range gone {
		im.dropEntry(e, how)
	}
	im.addDrop(drop{off: table, n: im.clusterSize, how: how})
	im.cache.Drop(table, im.clusterSize)
	im.l1.Set(l1, 0)
	return nil
}

// shrinkRefcounts gives up refcount blocks that count nothing but themselves.
// flushMu is held.
func (im *image) shrinkRefcounts(ctx context.Context) error {
	a := &im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	var freed []int64
	for region := range a.counts.Regions() {
		off, err := a.counts.Block(ctx, region)
		if err != nil {
			return err
		}
		if off == 0 {
			continue
		}
		own, empty := off>>im.clusterBits, true
		err = a.counts.Used(ctx, region, func(c int64, v uint64) bool {
			empty = c == own && v == 1
			return empty
		})
		if err != nil {
			return err
		}
		if !empty {
			continue
		}
		a.counts.DropBlock(region)
		if own>>im.refBlockBits != region {
			freed = append(freed, own)
		} else {
			a.released(own)
		}
	}
	changed, err := a.counts.WriteTable(ctx)
	if err != nil || !changed {
		return err
	}
	for _, c := range freed {
		if _, err := a.decrement(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// cutFile cuts the file behind the last cluster in use. flushMu is held.
func (im *image) cutFile(ctx context.Context) error {
	a := &im.alloc
	if _, err := im.writeRefcounts(ctx); err != nil {
		return err
	}
	if err := im.file.Flush(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	last, err := a.counts.LastUsed(ctx, im.clusters(max(a.fresh, im.file.Size()))-1)
	if err != nil {
		return err
	}
	end := (last + 1) << im.clusterBits
	if last < 0 || end >= im.file.Size() || a.fileLimit > 0 {
		return nil
	}
	r, ok := im.file.(driver.Resizer)
	if !ok {
		return nil
	}
	if err := r.Resize(ctx, end, driver.ResizeOptions{}); err != nil {
		im.env.Warn(fmt.Sprintf("Failed to truncate the tail of the image: %s", im.env.InWords(err)))
		return nil
	}
	a.fresh = end
	return nil
}
