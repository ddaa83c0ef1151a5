package qcow2

import (
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// needTables makes sure that guest clusters [c0, c1) have L2 tables that belong
// to the active image alone, and that their slices are cached at this moment.
func (im *image) needTables(ctx context.Context, c0, c1 int64) error {
	for l1 := c0 >> im.l2Bits; l1 <= (c1-1)>>im.l2Bits; l1++ {
		im.meta.RLock()
		table, raw := im.tableOffset(l1)
		im.meta.RUnlock()
		if table != 0 && raw&ondisk.FlagCopied != 0 {
			continue
		}
		if err := im.makeTable(ctx, l1); err != nil {
			return err
		}
	}
	return im.needSlices(ctx, c0, c1)
}

// makeTable gives L1 entry l1 an L2 table of its own: a new one, or a copy of
// the one that a snapshot shares.
func (im *image) makeTable(ctx context.Context, l1 int64) error {
	im.tableMu.Lock()
	defer im.tableMu.Unlock()
	im.meta.RLock()
	old, raw := im.tableOffset(l1)
	short := l1 >= int64(len(im.l1.Entries))
	im.meta.RUnlock()
	if short {
		return driver.Errorf(driver.ErrCorrupt, "L1 table has no entry %d", l1)
	}
	if old != 0 && raw&ondisk.FlagCopied != 0 {
		return nil
	}
	content := bufpool.Get(int(im.clusterSize))
	defer bufpool.Put(content)
	clear(content)
	if old != 0 {
		if err := im.checkL2Offset(ctx, l1<<im.l2Bits); err != nil {
			return err
		}
		if old >= im.file.Size() {
			return driver.Errorf(driver.ErrCorrupt, "L2 table at offset %#x lies beyond the end of the file", old)
		}
		im.events.Raise("l2_alloc_cow_read")
		// Shared tables are never changed, so the file has their contents.
		if err := tableio.ReadPadded(ctx, im.file, content, old); err != nil {
			return err
		}
	}
	host, _, _, err := im.allocClusters(ctx, 1)
	if err != nil {
		return err
	}
	im.events.Raise("l2_alloc_write")
	if err := im.writeNewTable(ctx, host, content); err != nil {
		im.freeNow(ctx, host, im.clusterSize)
		return err
	}
	im.alloc.noteMetadata(host)

	im.meta.Lock()
	for o := int64(0); o < im.clusterSize; o += im.cache.SliceSize() {
		im.cache.Put(host+o, slices.Clone(content[o:o+im.cache.SliceSize()]))
	}
	im.l1.Set(l1, uint64(host)|ondisk.FlagCopied)
	if old != 0 {
		im.drops = append(im.drops, drop{off: old, n: im.clusterSize, how: discardOther})
	}
	im.meta.Unlock()
	return nil
}
