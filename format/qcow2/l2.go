package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// newCache returns the cache of L2 slices, guarded by meta.
func (im *image) newCache() *clustertable.Cache {
	return clustertable.NewCache(clustertable.Config{SliceSize: im.sizes.slice, Budget: im.sizes.l2,
		CleanInterval: im.sizes.cleanInterval, Lock: &im.meta, WriteLock: &im.flushMu, Load: im.readSlice, Writable: im.writable})
}

// entryOf returns the index into the L1 table, the slice offset within the L2
// table and the index within the slice, for guest cluster c.
func (im *image) entryOf(c int64) (l1 int64, sliceOff int64, i int) {
	l1 = c >> im.l2Bits
	byteOff := (c & (1<<im.l2Bits - 1)) * im.l2EntrySize
	sliceOff = byteOff &^ (im.cache.SliceSize() - 1)
	return l1, sliceOff, int((byteOff - sliceOff) / im.l2EntrySize)
}

// tableOffset returns the host offset of the L2 table of L1 entry i, 0 if there
// is none. meta is held.
func (im *image) tableOffset(i int64) (int64, uint64) {
	if i >= int64(len(im.l1.Entries)) {
		return 0, 0
	}
	e := im.l1.Entries[i]
	return int64(e & ondisk.OffsetMask), e
}

// sliceOffset returns the offset in the file of the slice that holds the L2 entry
// of guest cluster c, 0 if there is no L2 table, and the entry's index in the slice.
// meta is held.
func (im *image) sliceOffset(c int64) (off int64, i int) {
	l1, sliceOff, i := im.entryOf(c)
	table, _ := im.tableOffset(l1)
	if table == 0 {
		return 0, i
	}
	return table + sliceOff, i
}

// sliceFor returns the slice that holds the L2 entry of guest cluster c and the
// entry's index in it. With a nil slice, missing tells what is to be loaded; it
// is zero if there is no L2 table. meta is held.
func (im *image) sliceFor(c int64) (s *clustertable.Slice, i int, missing int64) {
	off, i := im.sliceOffset(c)
	if off == 0 {
		return nil, i, 0
	}
	return im.cache.Get(off), i, off
}

// readSlice fills p with the part of an L2 table that is at off.
func (im *image) readSlice(ctx context.Context, p []byte, off int64) error {
	table := im.alignDown(off)
	if table >= im.file.Size() {
		return driver.Errorf(driver.ErrCorrupt, "L2 table at offset %#x lies beyond the end of the file", table)
	}
	im.events.Raise("l2_load")
	return tableio.ReadPadded(ctx, im.file, p, off)
}

// needSlices loads the slices of guest clusters [c0, c1) that exist. In a small
// cache they may push each other out: the first is loaded last, so that its user
// makes progress. No lock is held. It returns an error for L1 entries that are no
// table offsets.
func (im *image) needSlices(ctx context.Context, c0, c1 int64) error {
	perSlice := im.cache.SliceSize() / im.l2EntrySize
	for c := (c1 - 1) / perSlice * perSlice; c > c0-perSlice; c -= perSlice {
		c := max(c, c0)
		im.meta.RLock()
		s, _, missing := im.sliceFor(c)
		im.meta.RUnlock()
		if s != nil || missing == 0 {
			continue
		}
		if err := im.checkL2Offset(ctx, c); err != nil {
			return err
		}
		if err := im.cache.Load(ctx, im.file, missing); err != nil {
			return err
		}
	}
	return nil
}

// checkL2Offset judges the L1 entry of guest cluster c.
func (im *image) checkL2Offset(ctx context.Context, c int64) error {
	l1 := c >> im.l2Bits
	im.meta.RLock()
	table, _ := im.tableOffset(l1)
	im.meta.RUnlock()
	if table&(im.clusterSize-1) != 0 {
		return im.corruption(ctx, "L2 table offset %#x unaligned (L1 index: %#x)", table, l1)
	}
	return nil
}
