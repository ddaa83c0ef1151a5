package qcow2

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/refcounts"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// allocator keeps refcounts and finds free clusters. Increments are made in
// memory at once; decrements wait until what they belong to is durable.
type allocator struct {
	mu     sync.Mutex
	im     *image
	counts *refcounts.Counts // made once

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
	discardAlways // discarded in the file whatever the options say
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
		return driver.Errorf(driver.ErrCorrupt, "could not initialize refcount handling: %w", err)
	}
	a.im = im
	if a.counts == nil {
		a.counts = refcounts.New(refcounts.Config{Host: refcountHost{im}, ClusterBits: im.clusterBits,
			Budget: max(minRefcountCacheSize<<im.clusterBits, im.sizes.refcount), Writable: im.writable})
	}
	a.counts.Load(table, int64(h.RefcountTableOffset), im.refOrder)
	a.free, a.run, a.freeByte, a.ready = 0, 0, 0, nil
	a.readyLen.Store(0)
	a.fresh = im.alignUp(im.file.Size())
	traits := im.file.Traits()
	a.zeroOnGrow = traits.ZeroOnGrow
	if traits.FixedSize {
		// What is behind the image on a device is space like any other, of
		// unknown contents.
		a.fileLimit, a.zeroOnGrow, a.fresh = im.file.Size(), false, 0
	}
	if im.external {
		a.dataFresh, a.dataZero = im.data.Size(), im.data.Traits().ZeroOnGrow
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
	if im.overlap&(overlapActiveL2|overlapRefcountBlock|overlapInactiveL2) == 0 || int64(len(im.l1.Entries))+a.counts.Regions() > maxMetadataSet {
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
		table, _ := a.counts.Table()
		add(table, ^ondisk.ReftReservedMask)
	}
	if im.overlap&overlapInactiveL2 != 0 {
		for i := range im.snap.Entries {
			s := &im.snap.Entries[i]
			l1, err := im.readTable(ctx, int64(s.L1TableOffset), min(int64(s.L1Size), ondisk.MaxL1Bytes/8))
			if err != nil {
				return driver.Errorf(nil, "could not read the L1 table of snapshot '%s': %w", s.Name, err)
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

// refcountHost is the image as its refcounts see it.
type refcountHost struct{ im *image }

func (h refcountHost) File() driver.Storage { return h.im.file }
func (h refcountHost) Event(name string)    { h.im.events.Raise(name) }

func (h refcountHost) Corruption(ctx context.Context, format string, args ...any) error {
	return h.im.corruption(ctx, format, args...)
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
	missing, err := a.counts.Prepare(ctx, start, n)
	if err != nil {
		return false, err
	}
	if missing >= 0 {
		return true, a.makeBlock(ctx, missing)
	}
	if what := a.overlapping(start, n); what != "" {
		return false, im.corruption(ctx, "preventing invalid allocation at offset %#x (overlaps with %s)", start<<im.clusterBits, what)
	}
	if err := a.counts.Use(ctx, start, n); err != nil {
		return false, err
	}
	a.fresh = max(a.fresh, (start+n)<<im.clusterBits)
	return false, nil
}

// makeBlock makes the refcount block of a region, or of the region that its own
// cluster is in. mu is held.
func (a *allocator) makeBlock(ctx context.Context, region int64) error {
	im := a.im
	im.events.Raise("refblock_alloc")
	c, _, err := a.counts.FindFree(ctx, a.free, 1, 1)
	if err != nil {
		return err
	}
	own := c >> im.refBlockBits
	cover, err := a.counts.Block(ctx, own)
	if err != nil {
		return err
	}
	if cover == 0 {
		region = own // it counts itself
	}
	if m := max(region, own); m >= a.counts.Regions() {
		return &errGrow{m}
	}
	if a.fileLimit > 0 && (c+1)<<im.clusterBits > a.fileLimit {
		return errNoSpace()
	}
	if what := a.overlapping(c, 1); what != "" {
		return im.corruption(ctx, "preventing invalid allocation of refcount block at offset %#x", c<<im.clusterBits)
	}
	im.events.Raise("refblock_alloc_write")
	if err := im.writeNewTable(ctx, c<<im.clusterBits, nil); err != nil {
		return err
	}
	a.addBlock(region, c)
	if err := a.counts.Set(ctx, c, 1); err != nil {
		return err
	}
	a.free = c + 1
	a.fresh = max(a.fresh, (c+1)<<im.clusterBits)
	return nil
}

// addBlock puts an empty refcount block for region at cluster c.
func (a *allocator) addBlock(region, c int64) {
	a.counts.AddBlock(region, c)
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
		if start, got, err = a.counts.FindFree(ctx, from, n, least); err != nil {
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
