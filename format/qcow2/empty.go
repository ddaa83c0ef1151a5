package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// MakeEmpty gives up all mappings of the active disk.
//
// Where nothing but the active disk owns clusters, the L1 table is zeroed and
// what it mapped is forgotten by writing the few refcounts that remain, without
// a look at any L2 table. The order on disk is: the empty L1 table, barrier, a
// refcount table without the blocks that are no longer needed, barrier, the
// blocks that are, barrier, and then the end of the file is cut. Each step leaves
// leaks at most. Else the tables are dropped one by one.
func (im *image) MakeEmpty(ctx context.Context) error {
	if im.dataRaw {
		return driver.Errorf(driver.ErrUnsupported, "an image with a raw data file cannot be emptied")
	}
	im.resizeMu.Lock()
	defer im.resizeMu.Unlock()
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	if im.ownsOnlyDisk() {
		return im.forgetAll(ctx)
	}
	c1 := im.clusters(im.size.Load())
	p, err := im.pend.Reserve(ctx, 0, c1)
	if err != nil {
		return err
	}
	err = im.cutClusters(ctx, 0, c1, discardSnapshot)
	im.pend.Remove(p)
	if err == nil {
		// Before the data file may lose anything, nothing may refer to it.
		err = im.Flush(ctx)
	}
	if err != nil {
		return err
	}
	if im.external && im.opt.PassDiscardSnapshot {
		im.punchData(ctx, []span{{off: 0, end: im.alignUp(im.size.Load())}})
	}
	return nil
}

// ownsOnlyDisk says, for images without a LUKS header, whether every cluster but those of the header, the L1 table
// and the refcounts belongs to the active disk.
func (im *image) ownsOnlyDisk() bool {
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	if im.external || im.hdr.NbSnapshots > 0 || im.hdr.CryptMethod == ondisk.CryptLUKS {
		return false
	}
	for _, e := range im.exts {
		switch e.Type {
		case ondisk.ExtBackingFormat, ondisk.ExtFeatureNames:
		default:
			return false // it may refer to clusters
		}
	}
	return true
}

// forgetAll empties an image that has nothing but its active disk. resizeMu is
// held.
func (im *image) forgetAll(ctx context.Context) error {
	im.tableMu.Lock()
	defer im.tableMu.Unlock()
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.writeback(ctx, true, true); err != nil {
		return err
	}
	keep, used, err := im.bareRegions(ctx)
	if err != nil {
		return err
	}
	if err := im.writeEmpty(ctx, keep, used); err != nil {
		// What is on disk is sound; what is in memory may differ from it.
		im.refused.Store(true)
		return err
	}
	im.codec.Forget()
	if err := im.invalidate(ctx); err != nil {
		im.refused.Store(true)
		return err
	}
	im.cutBare(ctx, used)
	return nil
}

// bareRegions returns the refcount blocks that an empty image needs, by region,
// and the clusters it uses: header, L1 table, refcount table, and those blocks.
func (im *image) bareRegions(ctx context.Context) (keep map[int64]int64, used map[int64]struct{}, err error) {
	a := &im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	keep, used = map[int64]int64{}, map[int64]struct{}{}
	var unseen []int64
	add := func(off, n int64) {
		for c := off >> im.clusterBits; c < im.clusters(off+n); c++ {
			if _, ok := used[c]; !ok {
				used[c] = struct{}{}
				unseen = append(unseen, c)
			}
		}
	}
	add(0, im.clusterSize)
	add(im.l1.Off, im.l1.Bytes())
	table, tableOff := a.counts.Table()
	add(tableOff, int64(len(table))*8)
	for len(unseen) > 0 {
		region := unseen[len(unseen)-1] >> im.refBlockBits
		unseen = unseen[:len(unseen)-1]
		if _, ok := keep[region]; ok {
			continue
		}
		off, err := a.counts.Block(ctx, region)
		if err != nil {
			return nil, nil, err
		}
		if off == 0 {
			return nil, nil, im.corruption(ctx, "metadata at offset %#x has no refcount block", region<<im.refBlockBits<<im.clusterBits)
		}
		keep[region] = off
		add(off, im.clusterSize)
	}
	return keep, used, nil
}

// writeEmpty writes the tables of an empty image over those there are. tableMu
// and flushMu are held.
func (im *image) writeEmpty(ctx context.Context, keep map[int64]int64, used map[int64]struct{}) error {
	im.events.Raise("empty_image_prepare")
	empty := make([]uint64, len(im.l1.Entries))
	im.events.Raise("l1_update")
	if err := im.writeTableChanges(ctx, im.l1.Off, im.l1.Entries, empty); err != nil {
		return err
	}
	a := &im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	old, tableOff := a.counts.Table()
	table := make([]uint64, len(old))
	for region, off := range keep {
		table[region] = uint64(off)
	}
	im.events.Raise("reftable_update")
	if err := im.writeTableChanges(ctx, tableOff, old, table); err != nil {
		return err
	}
	im.events.Raise("refblock_alloc")
	for region, off := range keep {
		block := make([]byte, im.clusterSize)
		for c := range used {
			if c>>im.refBlockBits == region {
				ondisk.SetRefcount(block, int(c&(1<<im.refBlockBits-1)), im.refOrder, 1)
			}
		}
		if _, err := im.file.WriteAt(ctx, block, off); err != nil {
			return err
		}
	}
	return im.file.Flush(ctx)
}

// writeTableChanges writes the sectors of a table at off in which want differs
// from have, and makes them durable.
func (im *image) writeTableChanges(ctx context.Context, off int64, have, want []uint64) error {
	changes := clustertable.Difference(off, have, want, binary.BigEndian)
	if changes.Empty() {
		return nil
	}
	if err := changes.Write(ctx, im.file); err != nil {
		return err
	}
	return im.file.Flush(ctx)
}

// cutBare gives back the room behind and between the used clusters. What fails
// is not needed. flushMu is held.
func (im *image) cutBare(ctx context.Context, used map[int64]struct{}) {
	list := slices.Sorted(maps.Keys(used))
	a := &im.alloc
	end := (list[len(list)-1] + 1) << im.clusterBits
	if r, ok := im.file.(driver.Resizer); ok && a.fileLimit == 0 && im.file.Size() > end {
		if err := r.Resize(ctx, end, driver.ResizeOptions{}); err != nil {
			im.env.Warn(fmt.Sprintf("Failed to truncate the tail of the image: %s", im.env.InWords(err)))
		} else {
			a.mu.Lock()
			a.fresh = end
			a.mu.Unlock()
		}
	}
	d, ok := im.file.(driver.Discarder)
	if !ok {
		return
	}
	align := max(1, im.file.Limits().DiscardAlignment)
	list = append(list, im.clusters(im.file.Size()))
	for i := 1; i < len(list); i++ {
		off, end := (list[i-1]+1)<<im.clusterBits, min(list[i]<<im.clusterBits, im.file.Size())
		off, end = (off+align-1)/align*align, end/align*align
		if off < end && d.Discard(ctx, off, end-off) != nil {
			return
		}
	}
}
