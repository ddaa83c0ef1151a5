package qcow2

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// slice is a part of an L2 table in memory.
type slice struct {
	off     int64 // host offset
	data    []byte
	used    atomic.Bool // since the eviction hand passed
	dirty   bool
	unsure  bool // it may lie in a hole of the file: see coverSlice
	writing bool // a writeback carries older contents to the file
}

// sliceLoad is the reading of a slice that is under way.
type sliceLoad struct {
	done chan struct{}
	err  error
}

// sliceCache holds slices of L2 tables by host offset. image.meta guards it:
// shared for lookups, exclusive for the rest.
type sliceCache struct {
	size     int64 // of a slice
	max      int   // slices to keep; more only while they are dirty
	slices   map[int64]*slice
	loading  map[int64]*sliceLoad
	dirty    int
	interval time.Duration
	cleaned  time.Time
}

func (c *sliceCache) init(s cacheSizes) {
	*c = sliceCache{size: s.slice, max: int(s.l2 / s.slice), slices: map[int64]*slice{}, loading: map[int64]*sliceLoad{},
		interval: s.cleanInterval, cleaned: now()}
}

// get returns the cached slice at off or nil.
func (c *sliceCache) get(off int64) *slice {
	s := c.slices[off]
	if s != nil && !s.used.Load() {
		s.used.Store(true)
	}
	return s
}

// put inserts a slice in place of what was known at its offset.
func (c *sliceCache) put(s *slice) {
	c.drop(s.off)
	if len(c.slices) >= c.max {
		c.evict()
	}
	s.used.Store(true)
	c.slices[s.off] = s
	if s.dirty {
		c.dirty++
	}
	if c.interval > 0 {
		if t := now(); t.Sub(c.cleaned) > c.interval {
			c.cleaned = t
			c.clean()
		}
	}
}

// drop forgets the slice at off, written or not.
func (c *sliceCache) drop(off int64) {
	delete(c.loading, off)
	if s := c.slices[off]; s != nil {
		if s.dirty {
			c.dirty--
		}
		delete(c.slices, off)
	}
}

// dropTable forgets all slices of a table.
func (c *sliceCache) dropTable(off, clusterSize int64) {
	for o := off; o < off+clusterSize; o += c.size {
		c.drop(o)
	}
}

// evict makes room for one slice, if there is a clean one. The iteration order
// of maps is random, which makes this a clock algorithm with a jumping hand.
func (c *sliceCache) evict() {
	var victim *slice
	looked := 0
	for _, s := range c.slices {
		if s.dirty || s.writing {
			if looked++; looked > 256 {
				break
			}
			continue
		}
		victim = s
		if !s.used.Load() {
			break
		}
		s.used.Store(false)
		if looked++; looked > 16 {
			break
		}
	}
	if victim != nil {
		delete(c.slices, victim.off)
	}
}

// clean forgets clean slices that were not used since the last time.
func (c *sliceCache) clean() {
	for off, s := range c.slices {
		if !s.dirty && !s.writing && !s.used.Load() {
			delete(c.slices, off)
		}
		s.used.Store(false)
	}
}

func (c *sliceCache) markDirty(s *slice) {
	if !s.dirty {
		s.dirty = true
		c.dirty++
	}
}

// entryOf returns the index into the L1 table, the slice offset within the L2
// table and the index within the slice, for guest cluster c.
func (im *image) entryOf(c int64) (l1 int64, sliceOff int64, i int) {
	l1 = c >> im.l2Bits
	byteOff := (c & (1<<im.l2Bits - 1)) * im.l2EntrySize
	sliceOff = byteOff &^ (im.cache.size - 1)
	return l1, sliceOff, int((byteOff - sliceOff) / im.l2EntrySize)
}

// tableOffset returns the host offset of the L2 table of L1 entry i, 0 if there
// is none. meta is held.
func (im *image) tableOffset(i int64) (int64, uint64) {
	if i >= int64(len(im.l1)) {
		return 0, 0
	}
	e := im.l1[i]
	return int64(e & ondisk.OffsetMask), e
}

// sliceFor returns the slice that holds the L2 entry of guest cluster c and the
// entry's index in it. With a nil slice, missing tells what is to be loaded; it
// is zero if there is no L2 table. meta is held.
func (im *image) sliceFor(c int64) (s *slice, i int, missing int64) {
	l1, sliceOff, i := im.entryOf(c)
	table, _ := im.tableOffset(l1)
	if table == 0 {
		return nil, i, 0
	}
	s = im.cache.get(table + sliceOff)
	return s, i, table + sliceOff
}

// loadSlice reads the slice at off into the cache. No lock is held. The caller
// looks it up again: it may be gone already.
func (im *image) loadSlice(ctx context.Context, off int64) error {
	im.meta.Lock()
	if im.cache.slices[off] != nil {
		im.meta.Unlock()
		return nil
	}
	if l := im.cache.loading[off]; l != nil {
		im.meta.Unlock()
		select {
		case <-l.done:
			return l.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l := &sliceLoad{done: make(chan struct{})}
	im.cache.loading[off] = l
	im.meta.Unlock()

	s := &slice{off: off, data: make([]byte, im.cache.size)}
	l.err = im.readSlice(ctx, s)

	im.meta.Lock()
	if im.cache.loading[off] == l {
		delete(im.cache.loading, off)
		if l.err == nil {
			im.cache.put(s)
		}
	}
	im.meta.Unlock()
	close(l.done)
	return l.err
}

func (im *image) readSlice(ctx context.Context, s *slice) error {
	table := im.alignDown(s.off)
	if table >= im.file.Size() {
		return driver.Errorf(driver.ErrCorrupt, "L2 table at offset %#x lies beyond the end of the file", table)
	}
	im.events.Raise("l2_load")
	err := im.readPadded(ctx, im.file, s.data, s.off)
	s.unsure = im.writable && mayHaveHole(s.data, s.off)
	return err
}

// needSlices loads the slices of guest clusters [c0, c1) that exist. In a small
// cache they may push each other out: the first is loaded last, so that its user
// makes progress. No lock is held. It returns an error for L1 entries that are no
// table offsets.
func (im *image) needSlices(ctx context.Context, c0, c1 int64) error {
	perSlice := im.cache.size / im.l2EntrySize
	for c := (c1 - 1) / perSlice * perSlice; c > c0-perSlice; c -= perSlice {
		c := max(c, c0)
		im.meta.RLock()
		s, _, missing := im.sliceFor(c)
		im.meta.RUnlock()
		if s != nil || missing == 0 {
			continue
		}
		if err := im.checkL2Offset(ctx, c); err != nil {
			return err
		}
		if err := im.loadSlice(ctx, missing); err != nil {
			return err
		}
	}
	return nil
}

// checkL2Offset judges the L1 entry of guest cluster c.
func (im *image) checkL2Offset(ctx context.Context, c int64) error {
	l1 := c >> im.l2Bits
	im.meta.RLock()
	table, _ := im.tableOffset(l1)
	im.meta.RUnlock()
	if table&(im.clusterSize-1) != 0 {
		return im.corruption(ctx, "L2 table offset %#x unaligned (L1 index: %#x)", table, l1)
	}
	return nil
}
