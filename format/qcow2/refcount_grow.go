package qcow2

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
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
	if region < int64(len(a.table.Entries)) {
		return nil
	}
	im.events.Raise("reftable_grow")
	per := a.perBlock()
	perCluster := im.clusterSize / 8
	entries := max(region+1, int64(len(a.table.Entries))*3/2)
	first := int64(len(a.table.Entries)) * per // cluster index
	var tableClusters, blocks int64
	for {
		tableClusters = (entries + perCluster - 1) / perCluster
		blocks = 1
		for blocks*per < tableClusters+blocks {
			blocks++
		}
		if entries >= int64(len(a.table.Entries))+blocks {
			break
		}
		entries = int64(len(a.table.Entries)) + blocks
	}
	if tableClusters*im.clusterSize > ondisk.MaxRefcountTableBytes {
		return driver.Errorf(driver.ErrRange, "the refcount table would exceed %d bytes", ondisk.MaxRefcountTableBytes)
	}
	total := blocks + tableClusters
	if a.fileLimit > 0 && (first+total)<<im.clusterBits > a.fileLimit {
		return errNoSpace()
	}
	if first+total >= a.maxCluster() {
		return driver.Errorf(driver.ErrRange, "no free cluster is left that the image could refer to")
	}
	if what := a.overlapping(first, total); what != "" {
		return im.corruption(ctx, "Preventing invalid allocation of refcount table at offset %#x (overlaps with %s)", first<<im.clusterBits, what)
	}

	oldTable, oldOff, oldClusters := a.table.Entries, a.table.Off, int64(len(a.table.Entries))/perCluster
	undo := func() {
		for i := range blocks {
			a.blocks.Drop((first+i)<<im.clusterBits, im.clusterSize)
			delete(a.metadata, first+i)
		}
		a.table.Replace(oldTable)
	}
	a.fresh = max(a.fresh, (first+total)<<im.clusterBits) // whatever comes of it, the range is not untouched any more
	table := make([]uint64, tableClusters*perCluster)
	copy(table, oldTable)
	a.table.Replace(table)
	for i := range blocks {
		a.addBlock(int64(len(oldTable))+i, first+i)
	}
	for c := first; c < first+total; c++ {
		if err := a.set(ctx, c, 1); err != nil {
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
	a.table = clustertable.NewRoot(a.table.Entries, newOff, binary.BigEndian)
	a.holdSpans()
	a.ready = append(a.ready, drop{off: oldOff, n: oldClusters << im.clusterBits, how: discardOther})
	return nil
}

// writeGrownTable writes all refcount blocks that the table may name, and the
// table, and makes them durable. flushMu and alloc.mu are held.
func (im *image) writeGrownTable(ctx context.Context, off int64) error {
	a := &im.alloc
	im.events.Raise("refblock_alloc_write_blocks")
	blocks := a.blocks.Take()
	err := blocks.Write(ctx, im.file)
	blocks.Done(err)
	if err != nil {
		return err
	}
	im.events.Raise("refblock_alloc_write_table")
	if _, err := im.file.WriteAt(ctx, tableio.EncodeWords(a.table.Entries), off); err != nil {
		return err
	}
	return im.file.Flush(ctx)
}
