package qcow2

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
	"github.com/cowl-disk/cowl/internal/trace"
)

// pending is a change of a range of guest clusters that a write prepares.
type pending struct {
	clustertable.Change
	im *image

	host     int64  // host offset of the first cluster
	reuse    bool   // the clusters have their room already
	firstSub uint32 // with extended L2: first subcluster written of the first cluster
	lastSub  uint32 // with extended L2: last subcluster written of the last cluster
}

// beginWrite is called before every change. The first one flags the enabled
// bitmaps in use and, with lazy refcounts, sets the dirty bit.
func (im *image) beginWrite(ctx context.Context) error {
	if im.refused.Load() {
		return driver.Errorf(driver.ErrCorrupt, "image is corrupt: writing is no longer possible")
	}
	if im.begun.Load() {
		return nil
	}
	if !im.writable {
		return driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	if err := im.bm.Begin(ctx); err != nil {
		return err
	}
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	if im.begun.Load() {
		return nil
	}
	if err := im.coverTables(ctx); err != nil {
		return err
	}
	if im.version < 3 {
		im.begun.Store(true)
		return nil
	}
	h := im.hdr
	if im.lazy {
		h.Incompatible |= ondisk.IncompatDirty
	}
	if h.Incompatible != im.hdr.Incompatible {
		full := h.Append(nil)
		if err := im.writeHeaderField(ctx, ondisk.IncompatibleOffset, full[ondisk.IncompatibleOffset:ondisk.IncompatibleOffset+8]); err != nil {
			return err
		}
		im.hdr.Incompatible = h.Incompatible
	}
	im.begun.Store(true)
	return nil
}

// writePlan is what can be done for a write that starts in some cluster.
type writePlan struct {
	state    planState
	clusters int64 // that it covers
	host     int64 // of the first cluster, for planInPlace and planReuse
	first    ondisk.L2Entry
	last     ondisk.L2Entry
}

type planState uint8

const (
	planMissing planState = iota // a table must be made or loaded first
	planWait                     // another change is pending
	planBad                      // the entry cannot be right
	planInPlace                  // the room is there and only this image's
	planReuse                    // the room is there, the mapping must change
	planNew                      // room must be found
)

// classify says how a write to guest cluster c, of the bytes [from, to) in it,
// can be done. meta is held.
func (im *image) classify(c, from, to int64) (planState, ondisk.L2Entry) {
	l1, _, _ := im.entryOf(c)
	table, raw := im.tableOffset(l1)
	if table == 0 || raw&ondisk.FlagCopied == 0 {
		return planMissing, ondisk.L2Entry{}
	}
	s, i, _ := im.sliceFor(c)
	if s == nil {
		return planMissing, ondisk.L2Entry{}
	}
	e := ondisk.LoadL2(s.Data, i, im.extended)
	if im.badEntry(e) != "" || im.misplaced(c<<im.clusterBits, e) {
		return planBad, e
	}
	k := im.kind(e)
	own := e.Desc&ondisk.FlagCopied != 0
	switch {
	case k == kindNormal && own && !im.extended:
		return planInPlace, e
	case k == kindNormal && own:
		if mask := im.subMask(from, to); uint32(e.Bitmap)&mask == mask {
			return planInPlace, e
		}
		return planReuse, e
	case k == kindZeroAlloc && own:
		return planReuse, e
	}
	return planNew, e
}

// subMask has the bits of the subclusters that the bytes [from, to) of a cluster
// touch.
func (im *image) subMask(from, to int64) uint32 {
	a, b := from>>im.subBits, (to-1)>>im.subBits
	return uint32((uint64(1)<<(b+1) - 1) &^ (uint64(1)<<a - 1))
}

// plan looks at the clusters that a write of n bytes at off touches, as far as
// they can be handled in one way. meta is held.
func (im *image) plan(off, n int64) writePlan {
	c0, end := off>>im.clusterBits, off+n
	var r writePlan
	for c := c0; c<<im.clusterBits < end; c++ {
		start := c << im.clusterBits
		if im.pend.Conflict(c, c+1) != nil {
			if c == c0 {
				return writePlan{state: planWait}
			}
			break
		}
		state, e := im.classify(c, max(off, start)-start, min(end-start, im.clusterSize))
		if c == c0 {
			r = writePlan{state: state, clusters: 1, host: hostOffset(e), first: e, last: e}
			if state < planInPlace {
				return r
			}
			continue
		}
		// Clusters whose room is there can be one request; for some of them nothing changes.
		there := hostOffset(e) == r.host+(c-c0)<<im.clusterBits
		switch {
		case state == planInPlace && r.state == planReuse && there:
			state = planReuse
		case state == planReuse && r.state == planInPlace && there:
			r.state = planReuse
		}
		if state != r.state || state != planNew && !there {
			break
		}
		r.clusters++
		r.last = e
	}
	return r
}

// Allocate finds room for a write.
func (im *image) Allocate(ctx context.Context, off, n int64) (driver.WriteTarget, error) {
	if off < 0 || n <= 0 || off >= im.size.Load() {
		return driver.WriteTarget{}, driver.Errorf(driver.ErrRange, "write of %d bytes at %d: beyond the end of the disk", n, off)
	}
	t, err := im.allocate(ctx, off, min(n, im.size.Load()-off))
	if err == nil {
		trace.Qcow2AllocClustersOffset.Log(off, t.HostOffset, t.Length)
		im.bm.Mark(off, t.Length)
	}
	return t, err
}

// allocate is Allocate for a range that the caller has checked.
func (im *image) allocate(ctx context.Context, off, n int64) (driver.WriteTarget, error) {
	if err := im.needKey(); err != nil {
		return driver.WriteTarget{}, err
	}
	if err := im.beginWrite(ctx); err != nil {
		return driver.WriteTarget{}, err
	}
	if err := im.relieve(ctx); err != nil {
		return driver.WriteTarget{}, err
	}
	// A bound on the slices that one request needs at once.
	perSlice := im.cache.SliceSize() / im.l2EntrySize
	limit := max(1, min(int64(im.cache.Slices())/4, 256)) * perSlice << im.clusterBits
	n = min(n, limit-off&(im.clusterSize-1))
	c0, c1 := off>>im.clusterBits, (off+n-1)>>im.clusterBits+1
	for {
		if err := ctx.Err(); err != nil {
			return driver.WriteTarget{}, err
		}
		im.meta.RLock()
		r := im.plan(off, n)
		im.meta.RUnlock()
		switch r.state {
		case planInPlace:
			return im.inPlace(ctx, off, n, r)
		case planBad:
			if im.misplaced(c0<<im.clusterBits, r.first) {
				return driver.WriteTarget{}, im.misplacedError(ctx, c0<<im.clusterBits, hostOffset(r.first))
			}
			return driver.WriteTarget{}, im.entryError(ctx, c0, r.first, im.badEntry(r.first))
		case planWait:
			if err := im.pend.Wait(ctx, c0); err != nil {
				return driver.WriteTarget{}, err
			}
			continue
		}
		if err := im.needTables(ctx, c0, c1); err != nil {
			return driver.WriteTarget{}, err
		}
		im.meta.Lock()
		r = im.plan(off, n)
		if r.state != planReuse && r.state != planNew {
			im.meta.Unlock()
			continue
		}
		p := &pending{Change: clustertable.Change{First: c0, End: c0 + r.clusters}, im: im, host: r.host, reuse: r.state == planReuse}
		im.pend.Add(&p.Change)
		im.meta.Unlock()
		return im.target(ctx, off, n, r, p)
	}
}

// inPlace answers for a write to room that is the guest's already.
func (im *image) inPlace(ctx context.Context, off, n int64, r writePlan) (driver.WriteTarget, error) {
	in := off & (im.clusterSize - 1)
	t := driver.WriteTarget{Length: min(n, r.clusters<<im.clusterBits-in), Child: im.child(off, r.host+in), HostOffset: r.host + in}
	if err := im.keepOffTables(ctx, t.HostOffset, t.Length); err != nil {
		return driver.WriteTarget{}, err
	}
	im.events.Raise("write_aio")
	return t, nil
}

// keepOffTables refuses a write to room that an L2 entry names, although metadata is there.
func (im *image) keepOffTables(ctx context.Context, host, n int64) error {
	if im.external {
		return nil
	}
	if what := im.overlapping(host, n); what != "" {
		return im.corruption(ctx, "preventing invalid write on metadata (overlaps with %s)", what)
	}
	return nil
}

// target makes the answer for a write that p prepares, after finding room.
func (im *image) target(ctx context.Context, off, n int64, r writePlan, p *pending) (driver.WriteTarget, error) {
	var zeroFilled bool
	if p.reuse {
		if err := im.keepOffTables(ctx, p.host, (p.End-p.First)<<im.clusterBits); err != nil {
			im.pend.Remove(&p.Change)
			return driver.WriteTarget{}, err
		}
	} else {
		host, got, fresh, err := im.findRoom(ctx, p.First, p.End-p.First)
		if err != nil {
			im.pend.Remove(&p.Change)
			return driver.WriteTarget{}, err
		}
		zeroFilled = fresh
		im.meta.Lock()
		p.host = host
		if p.First+got < p.End {
			p.End = p.First + got
			r.last = ondisk.L2Entry{} // in the middle of the request: no edge
		}
		im.meta.Unlock()
	}
	in := off & (im.clusterSize - 1)
	length := min(n, (p.End-p.First)<<im.clusterBits-in)
	endIn := (off+length-1)&(im.clusterSize-1) + 1
	// What reads as zeroes in the file does not on an encrypted disk.
	t := driver.WriteTarget{Length: length, Child: im.child(off, p.host+in), HostOffset: p.host + in,
		ZeroFilled: zeroFilled && im.crypto == nil, Pending: p}
	from, _ := im.edges(r.first, p.reuse, in, min(in+length, im.clusterSize))
	start := int64(0)
	if p.End-p.First == 1 {
		start = in
	}
	_, to := im.edges(r.last, p.reuse, start, endIn)
	t.Head, t.Tail = in-from, to-endIn
	p.firstSub, p.lastSub = uint32(from>>im.subBits), uint32((to-1)>>im.subBits)
	// The block layer moves the data; these come just before it does.
	if t.Head+t.Tail > 0 {
		im.events.Raise("cow_read")
		im.events.Raise("cow_write")
	}
	im.events.Raise("write_aio")
	return t, nil
}

// edges widens the bytes [from, to) of a cluster with entry e to what must be
// written so that the cluster, or every subcluster touched, is whole.
func (im *image) edges(e ondisk.L2Entry, reuse bool, from, to int64) (int64, int64) {
	if !im.extended {
		if reuse && im.kind(e) == kindNormal {
			return from, to // in place, in a run with others that are not
		}
		return 0, im.clusterSize
	}
	alloc := uint32(e.Bitmap)
	if !reuse && (im.kind(e) == kindCompressed || alloc != 0) {
		return 0, im.clusterSize
	}
	if !reuse || alloc>>uint(from>>im.subBits)&1 == 0 {
		from &^= im.subSize - 1
	}
	if !reuse || alloc>>uint((to-1)>>im.subBits)&1 == 0 {
		to = (to + im.subSize - 1) &^ (im.subSize - 1)
	}
	return from, to
}

// newEntry returns the L2 entry of cluster c once p is committed.
func (p *pending) newEntry(c int64, old ondisk.L2Entry) ondisk.L2Entry {
	im := p.im
	e := ondisk.L2Entry{Desc: uint64(p.host+(c-p.First)<<im.clusterBits) | ondisk.FlagCopied}
	if !im.extended {
		return e
	}
	written := ^uint32(0)
	if c == p.First {
		written &^= 1<<p.firstSub - 1
	}
	if c == p.End-1 {
		written &= uint32(uint64(1)<<(p.lastSub+1) - 1)
	}
	alloc, zero := uint32(old.Bitmap), uint32(old.Bitmap>>32)
	if im.kind(old) == kindCompressed {
		alloc, zero = 0, 0
	}
	e.Bitmap = uint64(zero&^written)<<32 | uint64(alloc|written)
	return e
}

// Commit links the clusters that were written.
func (p *pending) Commit(ctx context.Context) error {
	im := p.im
	trace.Qcow2ClusterLinkL2.Log(p.First<<im.clusterBits, p.End-p.First)
	defer im.pend.Remove(&p.Change)
	done, err := im.editEntries(ctx, p.First, p.End, discardNever, func(c int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
		return p.newEntry(c, old), !p.reuse
	})
	if err != nil && !p.reuse {
		im.giveBack(ctx, p.host+(done-p.First)<<im.clusterBits, (p.End-done)<<im.clusterBits)
	}
	return err
}

// Abort gives the room back.
func (p *pending) Abort(ctx context.Context) {
	if !p.reuse {
		p.im.giveBack(ctx, p.host, (p.End-p.First)<<p.im.clusterBits)
	}
	p.im.pend.Remove(&p.Change)
}

// giveBack frees room that was never linked.
func (im *image) giveBack(ctx context.Context, host, n int64) {
	if !im.external {
		im.freeNow(ctx, host, n)
	}
}

// findRoom allocates up to n clusters in a row for guest cluster c. fresh says
// that they read as zeroes.
func (im *image) findRoom(ctx context.Context, c, n int64) (host, got int64, fresh bool, err error) {
	if im.external {
		host = c << im.clusterBits
		return host, n, im.alloc.touchData(host, host+n<<im.clusterBits), nil
	}
	host, got, fresh, err = im.allocClusters(ctx, n)
	if err != nil && n > 1 && im.alloc.fileLimit > 0 && errors.Is(err, driver.ErrRange) {
		// On a device there may be room for less.
		return im.allocRun(ctx, n, 1)
	}
	return host, got, fresh, err
}

// editEntries changes the L2 entries of guest clusters [c0, c1), which the
// caller has reserved; their tables, where there are any, are this image's own.
// fn returns the new entry, and whether the room of the old one is given up. It
// returns the first cluster that was not done.
func (im *image) editEntries(ctx context.Context, c0, c1 int64, how discardKind, fn func(c int64, old ondisk.L2Entry) (ondisk.L2Entry, bool)) (int64, error) {
	perSlice := im.cache.SliceSize() / im.l2EntrySize
	for c := c0; c < c1; {
		// The L1 entry is checked here: the cache does not know it.
		if err := im.needSlices(ctx, c, c+1); err != nil {
			return c, err
		}
		var bad *badEntry
		at := func() int64 { off, _ := im.sliceOffset(c); return off }
		err := im.cache.Edit(ctx, im.file, at, func(s *clustertable.Slice) (changed bool) {
			if s == nil { // no table
				c = (c>>im.l2Bits + 1) << im.l2Bits
				return false
			}
			_, i := im.sliceOffset(c)
			for end := min(c1, (c/perSlice+1)*perSlice); c < end; c, i = c+1, i+1 {
				old := ondisk.LoadL2(s.Data, i, im.extended)
				if what := im.badEntry(old); what != "" {
					bad = &badEntry{old, what}
					return changed
				}
				e, free := fn(c, old)
				if e == old {
					continue
				}
				ondisk.StoreL2(s.Data, i, im.extended, e)
				changed = true
				if free {
					im.dropEntry(old, how)
				}
			}
			return changed
		})
		if err != nil {
			return c, err
		}
		if bad != nil {
			return c, im.entryError(ctx, c, bad.entry, bad.what)
		}
	}
	return c1, nil
}
