package refcounts

import (
	"cmp"
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// Run is N clusters from First, each referred to Times times.
type Run struct {
	First, N int64
	Times    uint64
}

// Raise adds the references of a run and returns how many clusters it did. A cluster
// that is not counted yet is an error.
func (r *Counts) Raise(ctx context.Context, run Run) (int64, error) {
	per := r.perBlock()
	highest := ondisk.MaxRefcount(r.order)
	for c, end := run.First, run.First+run.N; c < end; {
		b, err := r.block(ctx, c/per)
		if err == nil && b != nil {
			err = r.cover(ctx, b)
		}
		if err != nil {
			return c - run.First, err
		}
		for base, stop := c/per*per, min(end, (c/per+1)*per); c < stop; c++ {
			var v uint64
			if b != nil {
				v = ondisk.GetRefcount(b.Data, int(c-base), r.order)
			}
			if v == 0 {
				return c - run.First, ErrUncounted(c << r.c.ClusterBits)
			}
			if run.Times > highest || v > highest-run.Times {
				return c - run.First, driver.Errorf(driver.ErrInvalid, "the cluster at offset %#x would have more references than the %d-bit refcounts of the image can count", c<<r.c.ClusterBits, 1<<r.order)
			}
			ondisk.SetRefcount(b.Data, int(c-base), r.order, v+run.Times)
			r.blocks.MarkDirty(b) // at once: the next cluster may end the run with an error
		}
	}
	return run.N, nil
}

// ErrUncounted is the error about a cluster at an offset of the file that is in use
// without being counted.
func ErrUncounted(off int64) error {
	return driver.Errorf(driver.ErrCorrupt, "the cluster at offset %#x is in use but its refcount is zero: the image needs a check", off)
}

// Lower takes the references of a run away and calls freed for each cluster that has
// none left. Where there are not that many it leaves the rest, and returns the first
// error.
func (r *Counts) Lower(ctx context.Context, run Run, freed func(c int64)) error {
	per := r.perBlock()
	var failed error
	for c, end := run.First, run.First+run.N; c < end; {
		b, err := r.block(ctx, c/per)
		if err == nil && b != nil {
			err = r.cover(ctx, b)
		}
		base, stop := c/per*per, min(end, (c/per+1)*per)
		if b == nil || err != nil {
			if err == nil {
				err = driver.Errorf(driver.ErrCorrupt, "cluster %d has no refcount block", c)
			}
			failed = cmp.Or(failed, err)
			c = stop
			continue
		}
		for ; c < stop; c++ {
			v := ondisk.GetRefcount(b.Data, int(c-base), r.order)
			if v < run.Times {
				failed = cmp.Or(failed, driver.Errorf(driver.ErrCorrupt, "the refcount of the cluster at offset %#x is too low", c<<r.c.ClusterBits))
				continue
			}
			ondisk.SetRefcount(b.Data, int(c-base), r.order, v-run.Times)
			if v == run.Times {
				freed(c)
			}
		}
		r.blocks.MarkDirty(b)
	}
	return failed
}
