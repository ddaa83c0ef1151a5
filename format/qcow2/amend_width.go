package qcow2

import (
	"cmp"
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// setRefcountOrder changes the width of refcounts to 1<<order bits. A whole new
// refcount structure is put behind everything in use, where the old one counts
// nothing, and made durable; then one write of the header's first sector, which
// holds both the width and the place of the table, lets it take over. The new
// structure does not count the old one: there is nothing to leak on either side
// of that write. resizeMu is held and no request is under way.
func (im *image) setRefcountOrder(ctx context.Context, order uint32, progress func(done, total int64)) error {
	im.tableMu.Lock()
	defer im.tableMu.Unlock()
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.writebackAll(ctx); err != nil {
		return err
	}
	w := &widthChange{im: im, order: order, bits: im.clusterBits + 3 - order, progress: progress}
	if err := w.plan(ctx); err != nil {
		return err
	}
	if err := w.write(ctx); err != nil {
		return err
	}
	im.hdrMu.Lock()
	h := im.hdr
	h.RefcountOrder = order
	h.RefcountTableOffset, h.RefcountTableClusters = uint64(w.tableOff()), uint32(w.tableClusters)
	b := h.Append(nil)
	err := im.writeHeaderField(ctx, ondisk.RefcountTableOffset, b[ondisk.RefcountTableOffset:ondisk.HeaderLengthOffset])
	if err == nil {
		im.hdr = h
	}
	im.hdrMu.Unlock()
	if err == nil {
		err = im.invalidate(ctx)
	}
	if err != nil {
		im.refused.Store(true) // which table the header names is not known
		return err
	}
	if im.discardPassedThrough(discardOther) {
		slices.Sort(w.gone)
		im.discardHoles(ctx, w.gone)
	}
	return nil
}

// widthChange makes a refcount structure of another width.
type widthChange struct {
	im       *image
	order    uint32
	bits     uint32 // log2 of the entries of a new block
	progress func(done, total int64)

	skip          map[int64]struct{} // clusters of the old structure
	gone          []int64            // the same
	start         int64              // first cluster of the new structure
	regions       []int64            // that need a block, in order
	tableClusters int64
}

// tableOff is where the new table is: first, the blocks follow it.
func (w *widthChange) tableOff() int64 { return w.start << w.im.clusterBits }

func (w *widthChange) blockOff(i int) int64 {
	return (w.start + w.tableClusters + int64(i)) << w.im.clusterBits
}

// end is the cluster behind the new structure.
func (w *widthChange) end() int64 { return w.start + w.tableClusters + int64(len(w.regions)) }

// plan finds out which new blocks are needed and where they go, and that every
// count fits.
func (w *widthChange) plan(ctx context.Context) error {
	im, a := w.im, &w.im.alloc
	w.skip = map[int64]struct{}{}
	skip := func(off, n int64) {
		for c := off >> im.clusterBits; c < im.clusters(off+n); c++ {
			w.skip[c] = struct{}{}
			w.gone = append(w.gone, c)
		}
	}
	table, tableOff := a.counts.Table()
	skip(tableOff, int64(len(table))*8)
	for _, e := range table {
		if off := int64(e &^ ondisk.ReftReservedMask); off != 0 {
			skip(off, im.clusterSize)
		}
	}
	need := map[int64]struct{}{}
	last := int64(-1)
	limit := ondisk.MaxRefcount(w.order)
	err := w.walk(ctx, func(c int64, n uint64) error {
		if n > limit {
			return driver.Errorf(driver.ErrInvalid, "cannot decrease refcount entry width to %d bits: Cluster at offset %#x has a refcount of %d",
				1<<w.order, c<<im.clusterBits, n)
		}
		last = max(last, c)
		if _, old := w.skip[c]; !old {
			need[c>>w.bits] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.start = max(last+1, im.clusters(a.fresh))
	if a.fileLimit == 0 {
		w.start = max(w.start, im.clusters(im.file.Size()))
	}
	for {
		n := int64(len(need))
		top := (w.start + w.tableClusters + n - 1) >> w.bits
		for r := range need {
			top = max(top, r)
		}
		clusters := im.clusters((top + 1) * 8)
		for r := w.start >> w.bits; r <= (w.start+clusters+n-1)>>w.bits; r++ {
			need[r] = struct{}{}
		}
		if clusters == w.tableClusters && int64(len(need)) == n {
			break
		}
		w.tableClusters = clusters
	}
	for r := range need {
		w.regions = append(w.regions, r)
	}
	slices.Sort(w.regions)
	switch {
	case w.tableClusters<<im.clusterBits > ondisk.MaxRefcountTableBytes:
		return driver.Errorf(driver.ErrRange, "the refcount table would exceed %d bytes", ondisk.MaxRefcountTableBytes)
	case w.end() >= a.counts.MaxCluster():
		return driver.Errorf(driver.ErrRange, "no free cluster is left that the image could refer to")
	case a.fileLimit > 0 && w.end()<<im.clusterBits > a.fileLimit:
		return errNoSpace()
	}
	return nil
}

// walk calls f for every cluster that has a refcount, in order.
func (w *widthChange) walk(ctx context.Context, f func(c int64, n uint64) error) error {
	a := &w.im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	for region := range a.counts.Regions() {
		if err := ctx.Err(); err != nil {
			return err
		}
		var failed error
		err := a.counts.Used(ctx, region, func(c int64, n uint64) bool {
			failed = f(c, n)
			return failed == nil
		})
		if err = cmp.Or(err, failed); err != nil {
			return err
		}
	}
	return nil
}

// write writes the new blocks and their table and makes them durable.
func (w *widthChange) write(ctx context.Context) error {
	im := w.im
	a := &im.alloc
	a.mu.Lock()
	a.fresh = max(a.fresh, w.end()<<im.clusterBits) // whatever comes of it, the range is not untouched any more
	a.mu.Unlock()
	block := make([]byte, im.clusterSize)
	at := 0
	mask := int64(1)<<w.bits - 1
	// flushTo writes the block at hand and those before region that only count
	// the new structure.
	flushTo := func(region int64) error {
		for ; at < len(w.regions) && w.regions[at] < region; at++ {
			first := w.regions[at] << w.bits
			for c := max(first, w.start); c < min(first+mask+1, w.end()); c++ {
				ondisk.SetRefcount(block, int(c&mask), w.order, 1)
			}
			if _, err := im.file.WriteAt(ctx, block, w.blockOff(at)); err != nil {
				return err
			}
			clear(block)
			if w.progress != nil {
				w.progress(int64(at+1), int64(len(w.regions)))
			}
		}
		return nil
	}
	err := w.walk(ctx, func(c int64, n uint64) error {
		if _, old := w.skip[c]; old {
			return nil
		}
		if err := flushTo(c >> w.bits); err != nil {
			return err
		}
		ondisk.SetRefcount(block, int(c&mask), w.order, n)
		return nil
	})
	if err == nil {
		err = flushTo(1 << 62)
	}
	if err != nil {
		return err
	}
	table := make([]uint64, w.tableClusters<<(im.clusterBits-3))
	for i, r := range w.regions {
		table[r] = uint64(w.blockOff(i))
	}
	if _, err := im.file.WriteAt(ctx, tableio.EncodeWords(table), w.tableOff()); err != nil {
		return err
	}
	return im.file.Flush(ctx)
}
