package refcounts

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// FindFree returns the first run of free clusters at or behind from that is at least
// least long, and as much of it as is wanted, at most n.
func (r *Counts) FindFree(ctx context.Context, from, n, least int64) (start, got int64, err error) {
	per := r.perBlock()
	start = -1
	for pos := from; ; {
		if pos >= r.MaxCluster() {
			return 0, 0, driver.Errorf(driver.ErrRange, "no free cluster is left that the image could refer to")
		}
		region := pos / per
		b, err := r.block(ctx, region)
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
				pos = base + int64(nextFree(b.Data, int(pos-base), int(per), r.order))
				if pos == end {
					continue
				}
				start = pos
			}
			if limit := min(end, start+n); limit > pos {
				pos = base + int64(nextUsed(b.Data, int(pos-base), int(limit-base), r.order))
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

// LastUsed returns the last cluster at or before c whose refcount is not zero, -1 if
// there is none.
func (r *Counts) LastUsed(ctx context.Context, c int64) (int64, error) {
	per := r.perBlock()
	for c >= 0 {
		b, err := r.block(ctx, c/per)
		if err != nil {
			return 0, err
		}
		if b == nil {
			c = c/per*per - 1
			continue
		}
		if ondisk.GetRefcount(b.Data, int(c%per), r.order) != 0 {
			return c, nil
		}
		c--
	}
	return -1, nil
}

// Used calls f for every cluster of a region whose refcount is not zero, in order,
// until it returns false.
func (r *Counts) Used(ctx context.Context, region int64, f func(c int64, v uint64) bool) error {
	b, err := r.block(ctx, region)
	if b == nil || err != nil {
		return err
	}
	per := int(r.perBlock())
	for i := nextUsed(b.Data, 0, per, r.order); i < per; i = nextUsed(b.Data, i+1, per, r.order) {
		if !f(region*int64(per)+int64(i), ondisk.GetRefcount(b.Data, i, r.order)) {
			return nil
		}
	}
	return nil
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
			if binary.BigEndian.Uint64(b[2*i:]) == 0 {
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
