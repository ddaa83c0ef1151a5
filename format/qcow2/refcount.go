package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// allocator keeps refcounts and finds free clusters. Increments are made in
// memory at once; decrements wait until what they belong to is durable.
type allocator struct {
	mu     sync.Mutex
	im     *image
	table  clustertable.Root   // refcount table
	blocks *clustertable.Cache // refcount blocks; made once

	free     int64 // no cluster below this index is free
	run      int64 // where the search for several clusters in a row starts
	fresh    int64 // the file was never written at or above this offset
	freeByte int64 // where the next compressed cluster may go, 0: nowhere
	ready    []drop
	readyLen atomic.Int64 // bytes in ready

	fileLimit  int64 // the file cannot grow beyond this, 0: no bound
	zeroOnGrow bool
	dataFresh  int64 // of an external data file
	dataZero   bool
	held       atomic.Pointer[[]span]
	metadata   map[int64]struct{} // clusters of L2 tables and refcount blocks, nil: not kept
}

// discardKind says why a cluster is freed, which decides about telling the file.
type discardKind uint8

const (
	discardNever discardKind = iota
	discardRequest
	discardSnapshot
	discardOther
	discardAlways // the file is told whatever the options say
)

// drop is a range of host clusters that lost one reference.
type drop struct {
	off, n int64
	how    discardKind
}

// maxMetadataSet bounds the set of metadata clusters that allocations are
// checked against.
const maxMetadataSet = 1 << 18

// init reads the refcount table. It is called with no request under way.
func (a *allocator) init(ctx context.Context, im *image) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := &im.hdr
	n := int64(h.RefcountTableClusters) << (im.clusterBits - 3)
	if err := im.reserve("Reference count table", n*8); err != nil {
		return err
	}
	im.events.Raise("reftable_load")
	table, err := im.readTable(ctx, int64(h.RefcountTableOffset), n)
	if err != nil {
		return driver.Errorf(driver.ErrCorrupt, "Could not initialize refcount handling: %w", err)
	}
	a.im, a.table = im, clustertable.NewRoot(table, int64(h.RefcountTableOffset), binary.BigEndian)
	if a.blocks == nil {
		a.blocks = clustertable.NewCache(clustertable.Config{SliceSize: im.clusterSize,
			Budget: max(minRefcountCacheSize<<im.clusterBits, im.sizes.refcount), Load: im.readRefcountBlock, Writable: im.writable})
	}
	a.blocks.Reset()
	a.free, a.run, a.freeByte, a.ready = 0, 0, 0, nil
	a.readyLen.Store(0)
	a.fresh = im.alignUp(im.file.Size())
	info, err := im.file.Info(ctx)
	if err != nil {
		return err
	}
	a.zeroOnGrow = info.ZeroOnGrow
	if info.FixedSize {
		// What lies behind the image on a device is room like any other, of
		// unknown contents.
		a.fileLimit, a.zeroOnGrow, a.fresh = im.file.Size(), false, 0
	}
	if im.external {
		info, err := im.data.Info(ctx)
		if err != nil {
			return err
		}
		a.dataFresh, a.dataZero = im.data.Size(), info.ZeroOnGrow
	}
	a.holdSpans()
	if err := a.listMetadata(ctx); err != nil {
		return err
	}
	return nil
}

// listMetadata lists the clusters of L2 tables and refcount blocks anew, as far as
// the overlap checks ask for them; nothing if there are too many. mu is held; no
// L1 entry changes.
func (a *allocator) listMetadata(ctx context.Context) error {
	im := a.im
	a.metadata = nil
	if im.overlap&(overlapActiveL2|overlapRefcountBlock|overlapInactiveL2) == 0 || len(im.l1.Entries)+len(a.table.Entries) > maxMetadataSet {
		return nil
	}
	set := map[int64]struct{}{}
	add := func(table []uint64, mask uint64) {
		for _, e := range table {
			set[int64(e&mask)>>im.clusterBits] = struct{}{}
		}
	}
	if im.overlap&overlapActiveL2 != 0 {
		add(im.l1.Entries, ondisk.OffsetMask)
	}
	if im.overlap&overlapRefcountBlock != 0 {
		add(a.table.Entries, ^ondisk.ReftReservedMask)
	}
	if im.overlap&overlapInactiveL2 != 0 {
		for i := range im.snapshots {
			s := &im.snapshots[i]
			l1, err := im.readTable(ctx, int64(s.L1TableOffset), min(int64(s.L1Size), ondisk.MaxL1Bytes/8))
			if err != nil {
				return fmt.Errorf("Could not read the L1 table of snapshot '%s': %w", s.Name, err)
			}
			if add(l1, ondisk.OffsetMask); len(set) > maxMetadataSet {
				return nil
			}
		}
	}
	delete(set, 0)
	a.metadata = set
	return nil
}

// touchData notes that an external data file is going to be written in
// [off, end) and says whether the range reads as zeroes until then.
func (a *allocator) touchData(off, end int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	zero := a.dataZero && off >= a.dataFresh
	a.dataFresh = max(a.dataFresh, end)
	return zero
}

func (a *allocator) noteMetadata(host int64) {
	a.mu.Lock()
	if a.metadata != nil {
		a.metadata[host>>a.im.clusterBits] = struct{}{}
	}
	a.mu.Unlock()
}

// block returns the refcount block of a region, nil if there is none. mu is held.
func (a *allocator) block(ctx context.Context, region int64) (*clustertable.Slice, error) {
	if region >= int64(len(a.table.Entries)) {
		return nil, nil
	}
	off := int64(a.table.Entries[region] &^ ondisk.ReftReservedMask)
	if off == 0 {
		return nil, nil
	}
	if b := a.blocks.Get(off); b != nil {
		return b, nil
	}
	im := a.im
	if off < 0 || off&(im.clusterSize-1) != 0 {
		return nil, im.corruption(ctx, "Refblock offset %#x unaligned (reftable index: %#x)", uint64(off), region)
	}
	if off >= im.file.Size() {
		return nil, im.corruption(ctx, "Refblock offset %#x is beyond the end of the file (reftable index: %#x)", uint64(off), region)
	}
	return a.blocks.Fetch(ctx, im.file, off)
}

// readRefcountBlock fills p with the refcount block at off.
func (im *image) readRefcountBlock(ctx context.Context, p []byte, off int64) error {
	im.events.Raise("refblock_load")
	return im.readPadded(ctx, im.file, p, off)
}

func (a *allocator) perBlock() int64 { return 1 << a.im.refBlockBits }

// get returns the refcount of a cluster. mu is held.
func (a *allocator) get(ctx context.Context, cluster int64) (uint64, error) {
	b, err := a.block(ctx, cluster>>a.im.refBlockBits)
	if b == nil || err != nil {
		return 0, err
	}
	return ondisk.GetRefcount(b.Data, int(cluster&(a.perBlock()-1)), a.im.refOrder), nil
}

// set writes the refcount of a cluster whose block exists. mu is held.
func (a *allocator) set(ctx context.Context, cluster int64, v uint64) error {
	b, err := a.block(ctx, cluster>>a.im.refBlockBits)
	if err != nil {
		return err
	}
	if b == nil {
		return a.im.corruption(ctx, "cluster %d has no refcount block", cluster)
	}
	if err := a.blocks.CoverFetched(ctx, a.im.file, b); err != nil {
		return err
	}
	ondisk.SetRefcount(b.Data, int(cluster&(a.perBlock()-1)), a.im.refOrder, v)
	a.blocks.MarkDirty(b)
	return nil
}

// maxCluster is the first cluster index that no table entry can name.
func (a *allocator) maxCluster() int64 { return 1 << (56 - a.im.clusterBits) }

// find returns the first run of free clusters at or behind from that is at least
// least long, and as much of it as is wanted, at most n. mu is held.
func (a *allocator) find(ctx context.Context, from, n, least int64) (start, got int64, err error) {
	per, order := a.perBlock(), a.im.refOrder
	start = -1
	for pos := from; ; {
		if pos >= a.maxCluster() {
			return 0, 0, driver.Errorf(driver.ErrRange, "no free cluster is left that the image could refer to")
		}
		region := pos / per
		b, err := a.block(ctx, region)
		if err != nil {
			return 0, 0, err
		}
		end := (region + 1) * per
		if b == nil {
			if start < 0 {
				start = pos
			}
			pos = end
		} else {
			base := region * per
			if start < 0 {
				pos = base + int64(nextFree(b.Data, int(pos-base), int(per), order))
				if pos == end {
					continue
				}
				start = pos
			}
			if limit := min(end, start+n); limit > pos {
				pos = base + int64(nextUsed(b.Data, int(pos-base), int(limit-base), order))
				if pos < limit { // a used cluster ends the run
					if pos-start >= least {
						return start, pos - start, nil
					}
					start = -1
					continue
				}
			}
		}
		if pos-start >= n {
			return start, n, nil
		}
	}
}

// nextFree returns the first index in [i, end) whose refcount is zero, else end.
func nextFree(b []byte, i, end int, order uint32) int {
	if order == 4 {
		for ; i < end; i++ {
			if b[2*i]|b[2*i+1] == 0 {
				return i
			}
		}
		return end
	}
	for ; i < end; i++ {
		if ondisk.GetRefcount(b, i, order) == 0 {
			return i
		}
	}
	return end
}

// nextUsed returns the first index in [i, end) whose refcount is not zero, else
// end.
func nextUsed(b []byte, i, end int, order uint32) int {
	for ; i < end; i++ {
		if order == 4 && i&3 == 0 && i+4 <= end {
			if be64(b[2*i:]) == 0 {
				i += 3
				continue
			}
		}
		if ondisk.GetRefcount(b, i, order) != 0 {
			return i
		}
	}
	return end
}

// errGrow asks for a larger refcount table, up to a region.
type errGrow struct{ region int64 }

func (e *errGrow) Error() string { return "refcount table is full" }

// take counts n free clusters at start as used, once. With again, a refcount
// block was made first and the search has to be repeated. mu is held.
func (a *allocator) take(ctx context.Context, start, n int64) (again bool, err error) {
	im := a.im
	if a.fileLimit > 0 && (start+n)<<im.clusterBits > a.fileLimit {
		return false, errNoSpace()
	}
	for region := start >> im.refBlockBits; region <= (start+n-1)>>im.refBlockBits; region++ {
		b, err := a.block(ctx, region)
		if err != nil {
			return false, err
		}
		if b == nil {
			return true, a.makeBlock(ctx, region)
		}
		if err := a.blocks.CoverFetched(ctx, im.file, b); err != nil {
			return false, err
		}
	}
	if what := a.overlapping(start, n); what != "" {
		return false, im.corruption(ctx, "Preventing invalid allocation at offset %#x (overlaps with %s)", start<<im.clusterBits, what)
	}
	per := a.perBlock()
	for c := start; c < start+n; {
		b, err := a.block(ctx, c/per)
		if err != nil {
			return false, err
		}
		for base, end := c/per*per, min(start+n, (c/per+1)*per); c < end; c++ {
			ondisk.SetRefcount(b.Data, int(c-base), im.refOrder, 1)
		}
		a.blocks.MarkDirty(b)
	}
	a.fresh = max(a.fresh, (start+n)<<im.clusterBits)
	return false, nil
}

// makeBlock makes the refcount block of a region, or of the region that its own
// cluster lies in. mu is held.
func (a *allocator) makeBlock(ctx context.Context, region int64) error {
	im := a.im
	im.events.Raise("refblock_alloc")
	c, _, err := a.find(ctx, a.free, 1, 1)
	if err != nil {
		return err
	}
	own := c >> im.refBlockBits
	cover, err := a.block(ctx, own)
	if err != nil {
		return err
	}
	if cover == nil {
		region = own // it counts itself
	}
	if m := max(region, own); m >= int64(len(a.table.Entries)) {
		return &errGrow{m}
	}
	if a.fileLimit > 0 && (c+1)<<im.clusterBits > a.fileLimit {
		return errNoSpace()
	}
	if what := a.overlapping(c, 1); what != "" {
		return im.corruption(ctx, "Preventing invalid allocation of refcount block at offset %#x", c<<im.clusterBits)
	}
	im.events.Raise("refblock_alloc_write")
	if err := im.writeNewTable(ctx, c<<im.clusterBits, nil); err != nil {
		return err
	}
	a.addBlock(region, c)
	if err := a.set(ctx, c, 1); err != nil {
		return err
	}
	a.free = c + 1
	a.fresh = max(a.fresh, (c+1)<<im.clusterBits)
	return nil
}

// addBlock puts an empty refcount block for region at cluster c.
func (a *allocator) addBlock(region, c int64) {
	b := a.blocks.Put(c<<a.im.clusterBits, make([]byte, a.im.clusterSize))
	a.blocks.MarkDirty(b)
	a.table.Set(region, uint64(b.Off))
	if a.metadata != nil {
		a.metadata[c] = struct{}{}
	}
}

// allocClusters finds up to n clusters in a row. A hole that does not hold all of
// them will do if it holds as many as an L2 table maps: those are what freed
// guest ranges leave. fresh says that the clusters read as zeroes.
func (im *image) allocClusters(ctx context.Context, n int64) (host, got int64, fresh bool, err error) {
	return im.allocRun(ctx, n, min(n, int64(1)<<im.l2Bits))
}

// allocRun finds at least least and up to n clusters in a row.
func (im *image) allocRun(ctx context.Context, n, least int64) (host, got int64, fresh bool, err error) {
	a := &im.alloc
	im.events.Raise("cluster_alloc")
	for {
		var start int64
		a.mu.Lock()
		start, got, fresh, err = a.claim(ctx, n, least)
		a.mu.Unlock()
		if g, ok := err.(*errGrow); ok {
			if err := im.growRefcountTable(ctx, g.region); err != nil {
				return 0, 0, false, err
			}
			continue
		}
		return start << im.clusterBits, got, fresh, err
	}
}

// claim finds and takes clusters in a row, as allocRun. mu is held.
func (a *allocator) claim(ctx context.Context, n, least int64) (start, got int64, fresh bool, err error) {
	for {
		from := a.free
		if least > 1 {
			from = max(a.free, a.run)
		}
		if start, got, err = a.find(ctx, from, n, least); err != nil {
			return 0, 0, false, err
		}
		if end := (start + got) << a.im.clusterBits; a.fileLimit > 0 && end > a.fileLimit && start<<a.im.clusterBits < a.fileLimit && least == 1 {
			got = a.fileLimit>>a.im.clusterBits - start
		}
		fresh = a.zeroOnGrow && start<<a.im.clusterBits >= a.fresh
		again, err := a.take(ctx, start, got)
		if err != nil {
			return 0, 0, false, err
		}
		if again {
			continue
		}
		if least > 1 {
			a.run = start + got
		}
		if least == 1 || start == a.free {
			a.free = start + got
		}
		return start, got, fresh, nil
	}
}
