package qcow2

import (
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// dropEntry notes that an L2 entry that was in force no longer is. The clusters
// become free after the next writeback. meta is held exclusively.
func (im *image) dropEntry(e ondisk.L2Entry, how discardKind) {
	switch im.kind(e) {
	case kindNormal, kindZeroAlloc:
		if !im.external {
			im.addDrop(drop{off: hostOffset(e), n: im.clusterSize, how: how})
		}
	case kindCompressed:
		d := ondisk.DecodeCompressed(e.Desc, im.clusterBits)
		from := im.alignDown(d.Offset)
		im.drops = append(im.drops, drop{off: from, n: im.alignUp(d.Offset+d.Size) - from, how: how})
	}
}

// addDrop appends a drop of clusters that nothing else refers to through this
// table, so that neighbours can be told together.
func (im *image) addDrop(d drop) {
	im.dropped += d.n
	if n := len(im.drops); n > 0 {
		if p := &im.drops[n-1]; p.off+p.n == d.off && p.how == d.how {
			p.n += d.n
			return
		}
	}
	im.drops = append(im.drops, d)
}

// freeNow takes back one reference to each cluster of a range that no table on
// disk ever referred to.
func (im *image) freeNow(ctx context.Context, off, n int64) {
	if n <= 0 {
		return
	}
	im.events.Raise("cluster_free")
	a := &im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := off >> im.clusterBits; c < im.clusters(off+n); c++ {
		// An error leaves a leak, which is the worst that may happen here.
		_, _ = a.decrement(ctx, c)
	}
}

// decrement takes one reference from a cluster and says whether it is free now.
// mu is held.
func (a *allocator) decrement(ctx context.Context, c int64) (free bool, err error) {
	v, err := a.counts.Get(ctx, c)
	if err != nil {
		return false, err
	}
	if v == 0 {
		return false, a.im.corruption(ctx, "reference count of cluster %d at offset %#x is already zero", c, c<<a.im.clusterBits)
	}
	if err := a.counts.Set(ctx, c, v-1); err != nil {
		return false, err
	}
	if v > 1 {
		return false, nil
	}
	a.released(c)
	return true, nil
}

// released notes that a cluster's refcount became zero.
func (a *allocator) released(c int64) {
	a.free, a.run = min(a.free, c), min(a.run, c)
	if a.freeByte>>a.im.clusterBits == c {
		a.freeByte = 0
	}
	if a.metadata != nil {
		delete(a.metadata, c)
	}
}

// whenUnused hands drops over for being freed once no reader uses them.
func (im *image) whenUnused(drops []drop) {
	if len(drops) == 0 {
		return
	}
	a := &im.alloc
	im.env.Guard.Defer(func() {
		a.mu.Lock()
		a.ready = append(a.ready, drops...)
		var n int64
		for _, d := range drops {
			n += d.n
		}
		a.readyLen.Add(n)
		a.mu.Unlock()
	})
}

// discardPassedThrough says whether clusters freed for this reason are discarded in the file.
func (im *image) discardPassedThrough(how discardKind) bool {
	switch how {
	case discardRequest:
		return im.opt.PassDiscardRequest
	case discardSnapshot:
		return im.opt.PassDiscardSnapshot
	case discardOther:
		return im.opt.PassDiscardOther
	case discardAlways:
		return true
	}
	return false
}

// applyReady frees what is not used any more. flushMu is held.
func (im *image) applyReady(ctx context.Context) error {
	a := &im.alloc
	a.mu.Lock()
	drops := a.ready
	a.ready = nil
	a.readyLen.Store(0)
	// A cluster that is discarded in the file keeps its last reference meanwhile, so
	// that it is not allocated again before the discard is done.
	var holes []int64
	var err error
	if len(drops) > 0 {
		im.events.Raise("cluster_free")
		im.codec.Forget()
	}
	for _, d := range drops {
		for c := d.off >> im.clusterBits; c < (d.off+d.n)>>im.clusterBits && err == nil; c++ {
			var v uint64
			if v, err = a.counts.Get(ctx, c); err != nil {
				break
			}
			if v == 1 && im.discardPassedThrough(d.how) {
				holes = append(holes, c)
				if a.freeByte>>im.clusterBits == c {
					a.freeByte = 0
				}
				continue
			}
			_, err = a.decrement(ctx, c)
		}
	}
	a.mu.Unlock()
	if len(holes) == 0 {
		return err
	}
	slices.Sort(holes)
	im.discardHoles(ctx, holes)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range holes {
		if _, derr := a.decrement(ctx, c); derr != nil && err == nil {
			err = derr
		}
	}
	return err
}

// discardHoles tells the file of free clusters. It is a courtesy: errors do not
// matter.
func (im *image) discardHoles(ctx context.Context, clusters []int64) {
	d, ok := im.file.(driver.Discarder)
	if !ok {
		return
	}
	for i := 0; i < len(clusters); {
		j := i + 1
		for j < len(clusters) && clusters[j] == clusters[j-1]+1 {
			j++
		}
		if !im.discardRun(ctx, d, clusters[i], int64(j-i)) {
			return
		}
		i = j
	}
}

// discardRun tells the file of n free clusters and says whether it could be told.
func (im *image) discardRun(ctx context.Context, d driver.Discarder, first, n int64) bool {
	align := max(1, im.file.Limits().DiscardAlignment)
	off, end := first<<im.clusterBits, min((first+n)<<im.clusterBits, im.file.Size())
	off, end = (off+align-1)/align*align, end/align*align
	return off >= end || d.Discard(ctx, off, end-off) == nil
}

// allocBytes finds room for n compressed bytes, less than a cluster: behind the
// last ones where they fit, or can go on in the next cluster.
func (im *image) allocBytes(ctx context.Context, n int64) (int64, error) {
	im.events.Raise("cluster_alloc_bytes")
	for {
		im.alloc.mu.Lock()
		off, err := im.alloc.claimBytes(ctx, n)
		im.alloc.mu.Unlock()
		if g, ok := err.(*errGrow); ok {
			if err := im.growRefcountTable(ctx, g.region); err != nil {
				return 0, err
			}
			continue
		}
		return off, err
	}
}

func (a *allocator) claimBytes(ctx context.Context, n int64) (int64, error) {
	im := a.im
	off := a.freeByte
	var refs uint64
	if off != 0 {
		var err error
		if refs, err = a.counts.Get(ctx, off>>im.clusterBits); err != nil {
			return 0, err
		}
		if refs == 0 || refs >= ondisk.MaxRefcount(im.refOrder) {
			off = 0
		}
	}
	if off == 0 || im.alignUp(off+1)-off < n {
		c, _, _, err := a.claim(ctx, 1, 1)
		if err != nil {
			return 0, err
		}
		if off == 0 || c != off>>im.clusterBits+1 {
			off, refs = c<<im.clusterBits, 0
		}
	}
	if off+n > ondisk.MaxCompressedOffset(im.clusterBits) {
		if refs == 0 {
			_, _ = a.decrement(ctx, off>>im.clusterBits)
		}
		return 0, driver.Errorf(driver.ErrRange, "no room is left that a compressed cluster could refer to")
	}
	if refs != 0 {
		if err := a.counts.Set(ctx, off>>im.clusterBits, refs+1); err != nil {
			return 0, err
		}
	}
	a.freeByte = off + n
	if a.freeByte&(im.clusterSize-1) == 0 {
		a.freeByte = 0
	}
	return off, nil
}

// holdSpans lists the metadata whose places are known without looking: header,
// L1 tables, refcount table, snapshot table, bitmap directory. mu is held, or
// there is no other user.
func (a *allocator) holdSpans() {
	im := a.im
	var spans []span
	add := func(bit overlapSet, off, n int64, what string) {
		if n > 0 && im.overlap&bit != 0 {
			spans = append(spans, span{off: off, end: im.alignUp(off + n), what: what})
		}
	}
	add(overlapMainHeader, 0, im.clusterSize, "qcow2_header")
	add(overlapActiveL1, im.l1.Off, im.l1.Bytes(), "active L1 table")
	table, tableOff := a.counts.Table()
	add(overlapRefcountTable, tableOff, int64(len(table))*8, "refcount table")
	if im.hdr.NbSnapshots > 0 {
		add(overlapSnapshotTable, int64(im.hdr.SnapshotsOffset), im.snap.Bytes, "snapshot table")
	}
	for i := range im.snap.Entries {
		s := &im.snap.Entries[i]
		add(overlapInactiveL1, int64(s.L1TableOffset), int64(s.L1Size)*8, "inactive L1 table")
	}
	if im.bitmapsExt.Count > 0 {
		add(overlapBitmapDirectory, int64(im.bitmapsExt.DirectoryOffset), int64(im.bitmapsExt.DirectorySize), "bitmap directory")
	}
	a.held.Store(&spans)
}

// overlapping names the metadata that [off, off+n) of the file would overwrite,
// "" if there is none.
func (im *image) overlapping(off, n int64) string {
	for _, s := range *im.alloc.held.Load() {
		if off < s.end && s.off < off+n {
			return s.what
		}
	}
	return ""
}

// overlapping is image.overlapping for n clusters, and knows L2 tables and
// refcount blocks. mu is held.
func (a *allocator) overlapping(c, n int64) string {
	if what := a.im.overlapping(c<<a.im.clusterBits, n<<a.im.clusterBits); what != "" {
		return what
	}
	if a.metadata != nil {
		for i := c; i < c+n; i++ {
			if _, ok := a.metadata[i]; ok {
				return "L2 table or refcount block"
			}
		}
	}
	return ""
}
