package qcow2

import (
	"cmp"
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/refcounts"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// namedTables are the L2 tables that an L1 table names, by place in the file.
type namedTables struct {
	offsets []int64
	times   []uint64 // how often each is named: once, unless the image is damaged
}

// tablesOf lists the L2 tables that l1 names. Each is in the file, so that
// reading them all costs no more than reading the file.
func (im *image) tablesOf(l1 []uint64) (namedTables, error) {
	var all []int64
	size := im.file.Size()
	for i, e := range l1 {
		off := int64(e & ondisk.OffsetMask)
		switch {
		case off == 0:
			continue
		case off&(im.clusterSize-1) != 0:
			return namedTables{}, driver.Errorf(driver.ErrCorrupt, "L2 table offset %#x unaligned (L1 index: %#x)", off, i)
		case off >= size:
			return namedTables{}, driver.Errorf(driver.ErrCorrupt, "L2 table at offset %#x lies beyond the end of the file (L1 index: %#x)", off, i)
		}
		all = append(all, off)
	}
	slices.Sort(all)
	var t namedTables
	for _, off := range all {
		if n := len(t.offsets); n > 0 && t.offsets[n-1] == off {
			t.times[n-1]++
			continue
		}
		t.offsets, t.times = append(t.offsets, off), append(t.times, 1)
	}
	return t, nil
}

// maxRefRuns is how many runs are collected before they are sorted and applied,
// unless a test sets image.refRuns.
const maxRefRuns = 64 << 10

// refPass adds references to clusters, or takes them away, in large batches in
// the order of the file. flushMu is held throughout, and there are no allocations.
type refPass struct {
	im   *image
	down bool
	// limit is the number of batches to apply, the rest is left out; negative: all.
	limit   int
	applied int
	runs    []refcounts.Run
	// rooms were found to be free just now: nothing may refer to them.
	rooms []span
	err   error // the first of a pass downwards, which goes on
}

// add notes references to n clusters.
func (r *refPass) add(ctx context.Context, first, n int64, times uint64) error {
	if l := len(r.runs); l > 0 {
		if p := &r.runs[l-1]; p.First+p.N == first && p.Times == times {
			p.N += n
			return nil
		}
	}
	if len(r.runs) >= r.im.refRuns {
		if err := r.apply(ctx); err != nil {
			return err
		}
	}
	r.runs = append(r.runs, refcounts.Run{First: first, N: n, Times: times})
	return nil
}

// apply applies the batch. On error nothing of it is applied, unless the pass is
// one downwards: there the error is kept, and what it concerns left as it is.
func (r *refPass) apply(ctx context.Context) error {
	runs := r.runs
	r.runs = r.runs[:0]
	if len(runs) == 0 || r.limit >= 0 && r.applied >= r.limit {
		return ctx.Err()
	}
	for _, run := range runs {
		for _, room := range r.rooms {
			if first, end := room.off>>r.im.clusterBits, r.im.clusters(room.end); run.First < end && first < run.First+run.N {
				return refcounts.ErrUncounted(max(run.First, first) << r.im.clusterBits)
			}
		}
	}
	slices.SortFunc(runs, func(a, b refcounts.Run) int { return cmp.Compare(a.First, b.First) })
	im, a := r.im, &r.im.alloc
	var freed []refcounts.Run
	note := func(c int64) {
		a.released(c)
		if l := len(freed); l > 0 && freed[l-1].First+freed[l-1].N == c {
			freed[l-1].N++
		} else {
			freed = append(freed, refcounts.Run{First: c, N: 1})
		}
	}
	a.mu.Lock()
	for i := range runs {
		var n int64
		var err error
		if r.down {
			err = a.counts.Lower(ctx, runs[i], note)
		} else if n, err = a.counts.Raise(ctx, runs[i]); err != nil {
			// Take back what was raised of this batch.
			runs[i].N = n
			for _, done := range runs[:i+1] {
				_ = a.counts.Lower(ctx, done, a.released)
			}
			a.mu.Unlock()
			return err
		}
		if err != nil && r.err == nil {
			r.err = err
		}
	}
	a.mu.Unlock()
	r.applied++
	if r.down && im.discardPassedThrough(discardSnapshot) && r.limit < 0 {
		im.discardFreed(ctx, freed)
	}
	if a.needsWriteback() {
		if _, err := im.writeRefcounts(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// discardFreed tells the file of clusters that became free. It is a courtesy:
// errors do not matter.
func (im *image) discardFreed(ctx context.Context, freed []refcounts.Run) {
	d, ok := im.file.(driver.Discarder)
	for i := 0; ok && i < len(freed); i++ {
		ok = im.discardRun(ctx, d, freed[i].First, freed[i].N)
	}
}

// tables adds the references that the L2 tables t make, and those to themselves.
// The file holds them as they are.
func (r *refPass) tables(ctx context.Context, t namedTables) error {
	im := r.im
	skip := func(err error) error {
		if r.down && ctx.Err() == nil {
			r.err = cmp.Or(r.err, err)
			return nil
		}
		return err
	}
	err := tableio.ReadTables(ctx, im.file, t.offsets, im.clusterSize, func(i int, b []byte, err error) error {
		if err == nil {
			err = im.goodEntries(t.offsets[i], b)
		}
		if err != nil {
			return skip(err)
		}
		return r.table(ctx, b, t.times[i])
	})
	for i := 0; i < len(t.offsets) && err == nil; i++ {
		err = r.add(ctx, t.offsets[i]>>im.clusterBits, 1, t.times[i])
	}
	if err == nil {
		err = r.apply(ctx)
	}
	return err
}

// goodEntries judges the entries of an L2 table.
func (im *image) goodEntries(off int64, b []byte) error {
	for i := range len(b) / int(im.l2EntrySize) {
		e := ondisk.LoadL2(b, i, im.extended)
		if what := im.badEntry(e); what != "" {
			return driver.Errorf(driver.ErrCorrupt, "%s: %#x (L2 offset: %#x, L2 index: %#x)", what, e.Desc, off, i)
		}
	}
	return nil
}

// table adds the references that the entries of an L2 table make.
func (r *refPass) table(ctx context.Context, b []byte, times uint64) error {
	im := r.im
	for i := range len(b) / int(im.l2EntrySize) {
		e := ondisk.LoadL2(b, i, im.extended)
		var err error
		switch im.kind(e) {
		case kindNormal, kindZeroAlloc:
			err = r.add(ctx, hostOffset(e)>>im.clusterBits, 1, times)
		case kindCompressed:
			d := ondisk.DecodeCompressed(e.Desc, im.clusterBits)
			first := d.Offset >> im.clusterBits
			err = r.add(ctx, first, im.clusters(d.Offset+d.Size)-first, times)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// raiseTables adds a reference to everything that the L2 tables t use, and to
// them. On error nothing is added, unless that cannot even be taken back: then
// clusters are leaked.
func (op *snapshotOp) raiseTables(ctx context.Context, t namedTables) error {
	im := op.im
	up := refPass{im: im, limit: -1, rooms: op.rooms}
	err := up.tables(ctx, t)
	if err != nil && up.applied > 0 {
		im.lowerTables(context.WithoutCancel(ctx), t, up.applied)
	}
	return err
}

// lowerTables takes away what raiseTables adds, in its first batches only if
// limit is not negative. It does what it can and returns the first error.
func (im *image) lowerTables(ctx context.Context, t namedTables, limit int) error {
	down := refPass{im: im, down: true, limit: limit}
	err := down.tables(ctx, t)
	return cmp.Or(err, down.err)
}

// lowerClusters takes away one reference to each cluster of a range.
func (im *image) lowerClusters(ctx context.Context, off, n int64) error {
	if n == 0 {
		return nil
	}
	im.events.Raise("cluster_free")
	down := refPass{im: im, down: true, limit: -1}
	err := down.add(ctx, off>>im.clusterBits, im.clusters(n), 1)
	if err == nil {
		err = down.apply(ctx)
	}
	return cmp.Or(err, down.err)
}
