package refcounts

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// AddBlock lets cluster c hold the block of a region that has none. The caller has
// written zeroes there, or is about to write all blocks.
func (r *Counts) AddBlock(region, c int64) {
	b := r.blocks.Put(c<<r.c.ClusterBits, make([]byte, r.clusterSize()))
	r.blocks.MarkDirty(b)
	r.table.Set(region, uint64(b.Off))
}

// DropBlock lets a region have no block. It returns where its block lay, which was
// read before.
func (r *Counts) DropBlock(region int64) (off int64) {
	off = int64(r.table.Entries[region] &^ ondisk.ReftReservedMask)
	r.table.Set(region, 0)
	r.blocks.Drop(off, r.clusterSize())
	return off
}

// Grow makes the table one of n entries, in memory: MoveTable lets it take effect.
// undo takes back Grow and the blocks that were added behind the former table.
func (r *Counts) Grow(n int64) (undo func()) {
	old := r.table.Entries
	table := make([]uint64, n)
	copy(table, old)
	r.table.Replace(table)
	return func() {
		for _, e := range r.table.Entries[len(old):] {
			if e != 0 {
				r.blocks.Drop(int64(e), r.clusterSize())
			}
		}
		r.table.Replace(old)
	}
}

// MoveTable notes that the table is at off now, written as it is.
func (r *Counts) MoveTable(off int64) {
	r.table = clustertable.NewRoot(r.table.Entries, off, binary.BigEndian)
}

// CoverTable gives the table room on disk where it is in holes of the file.
func (r *Counts) CoverTable(ctx context.Context) error {
	return clustertable.FillHoles(ctx, r.c.Host.File(), r.table.Off, r.table.Off+r.table.Bytes())
}

// Take returns what changed: blocks, and entries of the table, which must not reach
// the disk before the blocks. Batch.Done is called for both, under the lock.
func (r *Counts) Take() (blocks, table *clustertable.Batch) {
	return r.blocks.Take(), r.table.Take()
}

// WriteBlocks writes the blocks that changed. It does not flush. No batch that Take
// returned is under way.
func (r *Counts) WriteBlocks(ctx context.Context) error {
	b := r.blocks.Take()
	err := b.Write(ctx, r.c.Host.File())
	b.Done(err)
	return err
}

// WriteTable writes the entries of the table that changed, durably, and says
// whether there were any. No batch that Take returned is under way.
func (r *Counts) WriteTable(ctx context.Context) (changed bool, err error) {
	b := r.table.Take()
	if b.Empty() {
		return false, nil
	}
	if err = b.Write(ctx, r.c.Host.File()); err == nil {
		err = r.c.Host.File().Flush(ctx)
	}
	b.Done(err)
	return true, err
}

// NeedsWriteback says whether so many blocks wait to be written that they should be. It
// may be called without the lock.
func (r *Counts) NeedsWriteback() bool { return r.blocks.Dirty() > r.blocks.Slices() }
