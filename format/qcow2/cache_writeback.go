package qcow2

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// writeJob is a range of the file and what is to be written there.
type writeJob struct {
	off  int64
	data []byte
}

// maxJob bounds a merged write.
const maxJob = 4 << 20

// addJob appends data at off to jobs that are given in order, merging
// neighbours. It copies.
func addJob(jobs []writeJob, off int64, data []byte) []writeJob {
	if n := len(jobs); n > 0 {
		j := &jobs[n-1]
		if j.off+int64(len(j.data)) == off && len(j.data)+len(data) <= maxJob {
			j.data = append(j.data, data...)
			return jobs
		}
	}
	return append(jobs, writeJob{off, append([]byte(nil), data...)})
}

func (im *image) writeJobs(ctx context.Context, jobs []writeJob) error {
	for _, j := range jobs {
		if _, err := im.file.WriteAt(ctx, j.data, j.off); err != nil {
			return err
		}
	}
	return nil
}

// metaBatch is a copy of changed L2 slices and L1 entries.
type metaBatch struct {
	slices    []*slice
	l2, l1    []writeJob
	l1Sectors []int
	drops     []drop
	dropped   int64
}

// takeTables copies what changed and marks it clean.
func (im *image) takeTables() metaBatch {
	var t metaBatch
	im.meta.Lock()
	defer im.meta.Unlock()
	if im.cache.dirty > 0 {
		for _, s := range im.cache.slices {
			if s.dirty {
				t.slices = append(t.slices, s)
			}
		}
		slices.SortFunc(t.slices, func(a, b *slice) int {
			if a.off < b.off {
				return -1
			}
			return 1
		})
		for _, s := range t.slices {
			t.l2 = addJob(t.l2, s.off, s.data)
			s.dirty, s.writing = false, true
		}
		im.cache.dirty = 0
	}
	for i := range im.l1Dirty {
		t.l1Sectors = append(t.l1Sectors, i)
	}
	slices.Sort(t.l1Sectors)
	for _, i := range t.l1Sectors {
		t.l1 = addJob(t.l1, im.l1Off+int64(i)*l1Sector, encodeSector(im.l1, i))
	}
	clear(im.l1Dirty)
	t.drops, im.drops = im.drops, nil
	t.dropped, im.dropped = im.dropped, 0
	return t
}

// encodeSector encodes the entries of sector i of a table.
func encodeSector(table []uint64, i int) []byte {
	const per = l1Sector / 8
	b := make([]byte, 0, l1Sector)
	for _, e := range table[i*per : min((i+1)*per, len(table))] {
		b = binary.BigEndian.AppendUint64(b, e)
	}
	return b
}

// doneTables ends a writeback: after a failure everything is dirty again.
func (im *image) doneTables(t *metaBatch, err error) {
	im.meta.Lock()
	defer im.meta.Unlock()
	for _, s := range t.slices {
		s.writing = false
		if err != nil && im.cache.slices[s.off] == s {
			im.cache.markDirty(s)
		}
	}
	if err == nil {
		return
	}
	for _, i := range t.l1Sectors {
		im.l1Dirty[i] = struct{}{}
	}
	im.drops = append(t.drops, im.drops...)
	im.dropped += t.dropped
}

// refBatch is a copy of changed refcount blocks and refcount table entries.
type refBatch struct {
	blocks       []*refBlock
	jobs, table  []writeJob
	tableSectors []int
}

func (a *allocator) takeDirty() refBatch {
	var r refBatch
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dirty.Load() > 0 {
		for _, b := range a.blocks {
			if b.dirty {
				r.blocks = append(r.blocks, b)
			}
		}
		slices.SortFunc(r.blocks, func(x, y *refBlock) int {
			if x.off < y.off {
				return -1
			}
			return 1
		})
		for _, b := range r.blocks {
			r.jobs = addJob(r.jobs, b.off, b.data)
			b.dirty, b.writing = false, true
		}
		a.dirty.Store(0)
	}
	for i := range a.tableDirty {
		r.tableSectors = append(r.tableSectors, i)
	}
	slices.Sort(r.tableSectors)
	for _, i := range r.tableSectors {
		r.table = addJob(r.table, a.tableOff+int64(i)*l1Sector, encodeSector(a.table, i))
	}
	clear(a.tableDirty)
	return r
}

func (a *allocator) done(r *refBatch, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range r.blocks {
		b.writing = false
		if err != nil {
			a.markDirty(b)
		}
	}
	if err != nil {
		for _, i := range r.tableSectors {
			a.tableDirty[i] = struct{}{}
		}
	}
}

// writeRefcounts writes changed refcount blocks and, behind a barrier, the
// entries of new ones. flushMu is held.
func (im *image) writeRefcounts(ctx context.Context) (wrote bool, err error) {
	r := im.alloc.takeDirty()
	defer func() { im.alloc.done(&r, err) }()
	if len(r.jobs) > 0 {
		im.events.Raise("refblock_update_part")
	}
	if err = im.writeJobs(ctx, r.jobs); err != nil {
		return false, err
	}
	if len(r.table) > 0 {
		if err = im.file.Flush(ctx); err != nil {
			return false, err
		}
		im.events.Raise("refblock_alloc_hookup")
		if err = im.writeJobs(ctx, r.table); err != nil {
			return false, err
		}
	}
	return len(r.jobs)+len(r.table) > 0, nil
}

// barrier makes guest data and metadata that were written durable.
func (im *image) barrier(ctx context.Context) error {
	im.events.Raise("flush_to_disk")
	if im.external {
		if err := im.data.Flush(ctx); err != nil {
			return err
		}
	}
	return im.file.Flush(ctx)
}

// writeback brings changed metadata to the file in the order that the package
// documentation gives. With durable it returns once all is durable that was
// committed before the call. flushMu is held.
func (im *image) writeback(ctx context.Context, durable, refcounts bool) (err error) {
	t := im.takeTables()
	defer func() {
		im.doneTables(&t, err)
		if err == nil {
			im.whenUnused(t.drops)
		}
	}()
	if err = im.applyReady(ctx); err != nil {
		return err
	}
	if refcounts {
		if _, err = im.writeRefcounts(ctx); err != nil {
			return err
		}
	}
	if len(t.l2)+len(t.l1) == 0 {
		if durable {
			return im.barrier(ctx)
		}
		return nil
	}
	if err = im.barrier(ctx); err != nil {
		return err
	}
	if len(t.l2) > 0 {
		im.events.Raise("l2_update")
	}
	if err = im.writeJobs(ctx, t.l2); err != nil {
		return err
	}
	if len(t.l1) > 0 {
		if len(t.l2) > 0 {
			if err = im.file.Flush(ctx); err != nil {
				return err
			}
		}
		im.events.Raise("l1_update")
		if err = im.writeJobs(ctx, t.l1); err != nil {
			return err
		}
	}
	if durable || len(t.drops) > 0 {
		return im.file.Flush(ctx)
	}
	return nil
}

// Thresholds beyond which a change brings earlier ones to the file first.
const (
	maxDropRanges = 8192
	maxDropBytes  = 64 << 20
	minDirty      = 64 // slices
)

// pressed says whether so much is waiting that it should be written.
func (im *image) pressed() bool {
	im.meta.RLock()
	limit := im.cache.max / 2
	if int64(im.cache.max)*im.cache.size >= int64(len(im.l1))*im.clusterSize {
		limit = im.cache.max // all tables fit: nothing is gained by writing early
	}
	limit = max(limit, minDirty, int(2*im.clusterSize/im.cache.size))
	pressed := im.cache.dirty > limit || len(im.drops) > maxDropRanges || im.dropped > maxDropBytes
	im.meta.RUnlock()
	return pressed || im.alloc.readyLen.Load() > maxDropBytes || im.alloc.pressed()
}

func (a *allocator) pressed() bool {
	return a.dirty.Load() > int64(a.max)
}

// relieve writes metadata back if a lot is waiting. No lock is held.
func (im *image) relieve(ctx context.Context) error {
	if !im.pressed() {
		return nil
	}
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if !im.pressed() {
		return nil
	}
	return im.writeback(ctx, false, true)
}

// Flush makes everything durable that was written and committed. What was given
// up before can be allocated again, unless it is being read.
func (im *image) Flush(ctx context.Context) error {
	if !im.writable {
		return nil
	}
	im.events.Raise("flush_to_os")
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.writeback(ctx, true, !im.postponed()); err != nil {
		return err
	}
	return im.applyReady(ctx)
}

// postponed says whether refcounts may wait: the dirty bit protects them.
func (im *image) postponed() bool {
	return im.lazy && im.version >= 3 && im.begun.Load()
}

// settle writes everything, frees what waits to be freed, and writes that.
// flushMu is held and no request is under way.
func (im *image) settle(ctx context.Context) error {
	if err := im.writeback(ctx, true, true); err != nil {
		return err
	}
	// What the first pass dropped is free now; growing a table in between may
	// have added more.
	if err := im.applyReady(ctx); err != nil {
		return err
	}
	wrote, err := im.writeRefcounts(ctx)
	if err != nil || !wrote {
		return err
	}
	return im.file.Flush(ctx)
}

// Close writes everything back.
func (im *image) Close(ctx context.Context) error {
	defer im.release()
	if !im.writable || im.access.Check && !im.begun.Load() {
		return nil
	}
	if !im.begun.Load() {
		return nil
	}
	bitmapErr := im.storeBitmaps(ctx)
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.settle(ctx); err != nil {
		return err
	}
	if err := im.coverEnd(ctx); err != nil {
		return err
	}
	if im.lazy && !im.refused.Load() {
		if err := im.setIncompatible(ctx, 0, ondisk.IncompatDirty); err != nil {
			return err
		}
	}
	return bitmapErr
}

// coverEnd grows the file to the end of the last cluster in use: writers may
// have left out zeroes there.
func (im *image) coverEnd(ctx context.Context) error {
	a := &im.alloc
	a.mu.Lock()
	end := a.fresh
	if b := a.freeByte; b != 0 && im.alignUp(b) == end {
		end = (b + ondisk.CompressedSector - 1) &^ (ondisk.CompressedSector - 1) // the last cluster is not full
	}
	for end > im.file.Size() {
		v, err := a.get(ctx, (end-1)>>im.clusterBits)
		if err != nil {
			a.mu.Unlock()
			return err
		}
		if v != 0 {
			break
		}
		end = im.alignDown(end - 1)
	}
	a.mu.Unlock()
	if end <= im.file.Size() || a.fileLimit > 0 {
		return nil
	}
	if r, ok := im.file.(driver.Resizer); ok {
		if err := r.Resize(ctx, end, driver.ResizeOptions{}); err == nil {
			return nil
		}
	}
	_, err := im.file.WriteAt(ctx, []byte{0}, end-1)
	return err
}
