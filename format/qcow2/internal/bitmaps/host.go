package bitmaps

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// Range is the bytes [Off, End) of the file.
type Range struct{ Off, End int64 }

// Host is what bitmaps need of the image that they are in.
type Host interface {
	// Version, ClusterBits and DiskSize (bytes) are those of the image now.
	Version() uint32
	ClusterBits() uint32
	DiskSize() int64
	// File is the image file.
	File() driver.Storage
	// ReadTable reads n big-endian words at off of the file.
	ReadTable(ctx context.Context, off, n int64) ([]uint64, error)
	// Extension is the header extension that is on disk, zero if there is none.
	Extension() ondisk.BitmapsExtension
	// ExtensionFits says whether the header has room for one.
	ExtensionFits() error
	// BeginWrite is called before the first change. It calls Set.Begin.
	BeginWrite(ctx context.Context) error
	// Refused says that the image takes no more changes, or that it is not known
	// which header is on disk.
	Refused() bool
	// Allocate finds n clusters in a row, or fewer, down to least.
	Allocate(ctx context.Context, n, least int64) (Range, error)
	// Free gives back what Allocate returned and nothing on disk names.
	Free(ctx context.Context, r Range)
	// Commit makes everything durable that was written, and then the header with x.
	Commit(ctx context.Context, x ondisk.BitmapsExtension) error
	// FreeLater gives back what the header that Commit wrote no longer names.
	FreeLater(list []Range)
}
