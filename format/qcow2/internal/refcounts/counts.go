package refcounts

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// Host is what refcounts need of the image that they are in.
type Host interface {
	// File is the image file.
	File() driver.Storage
	// Event tells that something happens that tests and --trace may ask for.
	Event(name string)
	// Corruption marks the image as corrupt and returns the error.
	Corruption(ctx context.Context, format string, args ...any) error
}

// Config describes refcounts.
type Config struct {
	Host        Host
	ClusterBits uint32
	Budget      int64 // bytes of blocks to keep; more only while they are dirty
	Writable    bool
}

// Counts are the refcounts of an image. The caller's lock is held exclusively for
// every call, across the I/O that it may need; Pressed alone may be called without.
type Counts struct {
	c      Config
	order  uint32 // log2 of the width of a refcount in bits
	table  clustertable.Root
	blocks *clustertable.Cache
}

// New returns refcounts without a table; see Load.
func New(c Config) *Counts {
	r := &Counts{c: c}
	r.blocks = clustertable.NewCache(clustertable.Config{SliceSize: r.clusterSize(), Budget: c.Budget,
		Load: r.readBlock, Writable: c.Writable})
	return r
}

// Load forgets everything, written or not, and takes over a table as it is at off
// of the file, with refcounts of 1<<order bits.
func (r *Counts) Load(table []uint64, off int64, order uint32) {
	r.table, r.order = clustertable.NewRoot(table, off, binary.BigEndian), order
	r.blocks.Reset()
}

func (r *Counts) clusterSize() int64 { return 1 << r.c.ClusterBits }

// BlockBits is the base two logarithm of the clusters of a region.
func (r *Counts) BlockBits() uint32 { return r.c.ClusterBits + 3 - r.order }

func (r *Counts) perBlock() int64 { return 1 << r.BlockBits() }

// MaxCluster is the first cluster index that no table entry can name.
func (r *Counts) MaxCluster() int64 { return 1 << (56 - r.c.ClusterBits) }

// Table returns the entries of the table, not to be changed, and where it is in
// the file.
func (r *Counts) Table() (entries []uint64, off int64) { return r.table.Entries, r.table.Off }

// Regions is the number of entries of the table.
func (r *Counts) Regions() int64 { return int64(len(r.table.Entries)) }

func (r *Counts) readBlock(ctx context.Context, p []byte, off int64) error {
	r.c.Host.Event("refblock_load")
	return tableio.ReadPadded(ctx, r.c.Host.File(), p, off)
}

// block returns the block of a region, nil if there is none.
func (r *Counts) block(ctx context.Context, region int64) (*clustertable.Slice, error) {
	if region >= r.Regions() {
		return nil, nil
	}
	off := int64(r.table.Entries[region] &^ ondisk.ReftReservedMask)
	if off == 0 {
		return nil, nil
	}
	if b := r.blocks.Get(off); b != nil {
		return b, nil
	}
	if off < 0 || off&(r.clusterSize()-1) != 0 {
		return nil, r.c.Host.Corruption(ctx, "refblock offset %#x unaligned (reftable index: %#x)", uint64(off), region)
	}
	if off >= r.c.Host.File().Size() {
		return nil, r.c.Host.Corruption(ctx, "refblock offset %#x is beyond the end of the file (reftable index: %#x)", uint64(off), region)
	}
	return r.blocks.Fetch(ctx, r.c.Host.File(), off)
}

// Block returns where the block of a region is, 0 if there is none. It is read,
// so that an entry of the table that cannot be right is an error.
func (r *Counts) Block(ctx context.Context, region int64) (off int64, err error) {
	b, err := r.block(ctx, region)
	if b == nil || err != nil {
		return 0, err
	}
	return b.Off, nil
}

// Get returns the refcount of a cluster.
func (r *Counts) Get(ctx context.Context, c int64) (uint64, error) {
	b, err := r.block(ctx, c>>r.BlockBits())
	if b == nil || err != nil {
		return 0, err
	}
	return ondisk.GetRefcount(b.Data, int(c&(r.perBlock()-1)), r.order), nil
}

// Reader returns the function Get for clusters that are mostly neighbours. It is
// valid as long as the caller holds the lock.
func (r *Counts) Reader() func(ctx context.Context, c int64) (uint64, error) {
	var b *clustertable.Slice
	region := int64(-1)
	return func(ctx context.Context, c int64) (uint64, error) {
		if at := c >> r.BlockBits(); at != region {
			next, err := r.block(ctx, at)
			if err != nil {
				return 0, err
			}
			b, region = next, at
		}
		if b == nil {
			return 0, nil
		}
		return ondisk.GetRefcount(b.Data, int(c&(r.perBlock()-1)), r.order), nil
	}
}

// Set changes the refcount of a cluster whose region has a block.
func (r *Counts) Set(ctx context.Context, c int64, v uint64) error {
	b, err := r.block(ctx, c>>r.BlockBits())
	if err != nil {
		return err
	}
	if b == nil {
		return r.c.Host.Corruption(ctx, "cluster %d has no refcount block", c)
	}
	if err := r.cover(ctx, b); err != nil {
		return err
	}
	ondisk.SetRefcount(b.Data, int(c&(r.perBlock()-1)), r.order, v)
	r.blocks.MarkDirty(b)
	return nil
}

func (r *Counts) cover(ctx context.Context, b *clustertable.Slice) error {
	return r.blocks.CoverFetched(ctx, r.c.Host.File(), b)
}

// Prepare makes sure that the refcounts of n clusters from start can be changed. If
// a region of them has no block, missing is that region, else it is negative.
func (r *Counts) Prepare(ctx context.Context, start, n int64) (missing int64, err error) {
	for region := start >> r.BlockBits(); region <= (start+n-1)>>r.BlockBits(); region++ {
		b, err := r.block(ctx, region)
		if err != nil {
			return -1, err
		}
		if b == nil {
			return region, nil
		}
		if err := r.cover(ctx, b); err != nil {
			return -1, err
		}
	}
	return -1, nil
}

// Use sets the refcounts of n clusters from start to one. Prepare was called.
func (r *Counts) Use(ctx context.Context, start, n int64) error {
	per := r.perBlock()
	for c := start; c < start+n; {
		b, err := r.block(ctx, c/per)
		if err != nil {
			return err
		}
		for base, end := c/per*per, min(start+n, (c/per+1)*per); c < end; c++ {
			ondisk.SetRefcount(b.Data, int(c-base), r.order, 1)
		}
		r.blocks.MarkDirty(b)
	}
	return nil
}
