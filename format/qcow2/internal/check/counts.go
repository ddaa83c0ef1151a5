package check

import "github.com/cowl-disk/cowl/block/driver"

// refCounts counts the references to each cluster of a file while it is
// checked. Memory is taken in chunks as references appear, against a budget.
//
// An entry holds the count in its low bits, and whether a table of the active
// disk refers to the cluster with the "copied" flag set or clear. With these
// two bits the flags are verified without reading the tables again.
type refCounts struct {
	chunks   []*countChunk
	clusters int64
	spill    map[int64]uint64 // counts that do not fit
	budget   *driver.Budget
	reserved int64
}

const (
	chunkBits  = 10
	chunkBytes = 2 << chunkBits

	countMask = 1<<14 - 1 // the highest value means: see spill
	refPlain  = 1 << 14   // referred to without the copied flag
	refCopied = 1 << 15   // referred to with it
)

type countChunk [1 << chunkBits]uint16

func newRefCounts(clusters int64, budget *driver.Budget) *refCounts {
	r := &refCounts{budget: budget}
	r.grow(clusters)
	return r
}

func (r *refCounts) release() { r.budget.Release(r.reserved) }

// grow makes room for clusters clusters.
func (r *refCounts) grow(clusters int64) {
	if clusters <= r.clusters {
		return
	}
	r.clusters = clusters
	n := (clusters + 1<<chunkBits - 1) >> chunkBits
	for int64(len(r.chunks)) < n {
		r.chunks = append(r.chunks, nil)
	}
}

// reset sets all counts to zero.
func (r *refCounts) reset() {
	for _, c := range r.chunks {
		if c != nil {
			*c = countChunk{}
		}
	}
	r.spill = nil
}

// chunk returns the chunk that holds cluster i, which exists from then on.
func (r *refCounts) chunk(i int64) (*countChunk, error) {
	c := r.chunks[i>>chunkBits]
	if c == nil {
		if err := r.budget.Table("refcounts in memory", chunkBytes); err != nil {
			return nil, err
		}
		r.reserved += chunkBytes
		c = new(countChunk)
		r.chunks[i>>chunkBits] = c
	}
	return c, nil
}

// get returns the count of cluster i; zero beyond the end.
func (r *refCounts) get(i int64) uint64 {
	if i >= r.clusters {
		return 0
	}
	c := r.chunks[i>>chunkBits]
	if c == nil {
		return 0
	}
	n := c[i&(1<<chunkBits-1)] & countMask
	if n == countMask {
		return r.spill[i]
	}
	return uint64(n)
}

// set changes the count of cluster i, which is within range.
func (r *refCounts) set(i int64, n uint64) error {
	c, err := r.chunk(i)
	if err != nil {
		return err
	}
	e := &c[i&(1<<chunkBits-1)]
	if n < countMask {
		*e = *e&^countMask | uint16(n)
		return nil
	}
	*e |= countMask
	if r.spill == nil {
		r.spill = map[int64]uint64{}
	}
	r.spill[i] = n
	return nil
}

// mark notes how a table of the active disk refers to cluster i, which was
// counted before.
func (r *refCounts) mark(i int64, flag uint16) {
	if c := r.chunks[i>>chunkBits]; c != nil {
		c[i&(1<<chunkBits-1)] |= flag
	}
}

// copiedFlagsHold says whether every reference from the active disk has the
// copied flag exactly where the count is one.
func (r *refCounts) copiedFlagsHold() bool {
	for _, c := range r.chunks {
		if c == nil {
			continue
		}
		for _, e := range c {
			if e <= 1 {
				continue
			}
			if one := e&countMask == 1; one && e&refPlain != 0 || !one && e&refCopied != 0 {
				return false
			}
		}
	}
	return true
}
