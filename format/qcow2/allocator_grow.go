package qcow2

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// growRefcountTable makes the refcount table long enough for a region: a new
// table, and the refcount blocks that count it, are put behind what the old one
// could count, which is free by definition. The order on disk is: blocks and
// table, barrier, header, barrier; then the old table is given up.
func (im *image) growRefcountTable(ctx context.Context, region int64) error {
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	a := &im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	if region < a.counts.Regions() {
		return nil
	}
	im.events.Raise("reftable_grow")
	regions, per := a.counts.Regions(), int64(1)<<im.refBlockBits
	perCluster := im.clusterSize / 8
	entries := max(region+1, regions*3/2)
	first := regions * per // cluster index
	var tableClusters, blocks int64
	for {
		tableClusters = (entries + perCluster - 1) / perCluster
		blocks = 1
		for blocks*per < tableClusters+blocks {
			blocks++
		}
		if entries >= regions+blocks {
			break
		}
		entries = regions + blocks
	}
	if tableClusters*im.clusterSize > ondisk.MaxRefcountTableBytes {
		return driver.Errorf(driver.ErrRange, "the refcount table would exceed %d bytes", ondisk.MaxRefcountTableBytes)
	}
	total := blocks + tableClusters
	if a.fileLimit > 0 && (first+total)<<im.clusterBits > a.fileLimit {
		return errNoSpace()
	}
	if first+total >= a.counts.MaxCluster() {
		return driver.Errorf(driver.ErrRange, "no free cluster is left that the image could refer to")
	}
	if what := a.overlapping(first, total); what != "" {
		return im.corruption(ctx, "preventing invalid allocation of refcount table at offset %#x (overlaps with %s)", first<<im.clusterBits, what)
	}

	_, oldOff := a.counts.Table()
	a.fresh = max(a.fresh, (first+total)<<im.clusterBits) // whatever comes of it, the range is not untouched any more
	undoGrow := a.counts.Grow(tableClusters * perCluster)
	undo := func() {
		for i := range blocks {
			delete(a.metadata, first+i)
		}
		undoGrow()
	}
	for i := range blocks {
		a.addBlock(regions+i, first+i)
	}
	for c := first; c < first+total; c++ {
		if err := a.counts.Set(ctx, c, 1); err != nil {
			undo()
			return err
		}
	}
	newOff := (first + blocks) << im.clusterBits
	if err := im.writeGrownTable(ctx, newOff); err != nil {
		undo()
		return err
	}
	im.hdrMu.Lock()
	field := binary.BigEndian.AppendUint64(nil, uint64(newOff))
	field = binary.BigEndian.AppendUint32(field, uint32(tableClusters))
	im.events.Raise("refblock_alloc_switch_table")
	err := im.writeHeaderField(ctx, ondisk.RefcountTableOffset, field)
	if err == nil {
		im.hdr.RefcountTableOffset, im.hdr.RefcountTableClusters = uint64(newOff), uint32(tableClusters)
	}
	im.hdrMu.Unlock()
	if err != nil {
		// Which of the two tables the header names now is not known; both are
		// on disk and nothing was freed.
		im.refused.Store(true)
		undo()
		return err
	}
	a.counts.MoveTable(newOff)
	a.holdSpans()
	a.ready = append(a.ready, drop{off: oldOff, n: regions / perCluster << im.clusterBits, how: discardOther})
	return nil
}

// writeGrownTable writes all refcount blocks that the table may name, and the
// table, and makes them durable. flushMu and alloc.mu are held.
func (im *image) writeGrownTable(ctx context.Context, off int64) error {
	a := &im.alloc
	im.events.Raise("refblock_alloc_write_blocks")
	if err := a.counts.WriteBlocks(ctx); err != nil {
		return err
	}
	table, _ := a.counts.Table()
	im.events.Raise("refblock_alloc_write_table")
	if _, err := im.file.WriteAt(ctx, tableio.EncodeWords(table), off); err != nil {
		return err
	}
	return im.file.Flush(ctx)
}
