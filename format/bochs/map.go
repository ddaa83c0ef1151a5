package bochs

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

const (
	// pageSize is how much of a table is read at a time.
	pageSize = 16 << 10
	// maxRun bounds the work of one look for where an extent ends, in units.
	maxRun = 64 << 10
)

// node is an open image. Only its caches change after Open.
type node struct {
	layout
	file    driver.Storage
	backing *driver.BackingRef
	tables  *clustertable.Cache // the catalog or table of pages
	bitmaps *clustertable.Cache // those in front of extents
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.size }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return driver.Limits{RequestAlignment: sectorSize} }

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits { return driver.Traits{FixedSize: true} }

// State implements driver.Stater: of redologs on a disk it tells which.
func (n *node) State(context.Context) (*driver.State, error) {
	if n.backing == nil {
		return nil, nil
	}
	return &driver.State{Backing: n.backing}, nil
}

// Flush implements driver.Node.
func (n *node) Flush(context.Context) error { return nil }

// Close implements driver.Node.
func (n *node) Close(context.Context) error { return nil }

// ReadEncoded implements driver.Format; Map never asks for it.
func (n *node) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrInvalid, "bochs images have no encoded extents")
}

// Map implements driver.Format.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	length = min(length, n.size-off)
	if length <= 0 {
		return driver.Extent{}, nil
	}
	first, err := n.one(ctx, off, length)
	if err != nil {
		return first, err
	}
	for i := 0; first.Length < length && i < maxRun; i++ {
		next, err := n.one(ctx, off+first.Length, length-first.Length)
		// An error is that of the next extent, which will be asked for.
		if err != nil || next.Kind != first.Kind || next.Kind == driver.ExtentData && next.HostOffset != first.HostOffset+first.Length {
			break
		}
		first.Length += next.Length
	}
	return first, nil
}

// one maps a range as far as it is in one unit, all of it here or all elsewhere.
func (n *node) one(ctx context.Context, off, length int64) (driver.Extent, error) {
	unit, in := off/n.unit, off%n.unit
	x := driver.Extent{Length: min(length, n.unit-in), Kind: driver.ExtentZero}
	if n.overlay {
		x.Kind = driver.ExtentUnallocated
	}
	at := n.table + unit*entrySize
	var entry uint32
	start := at - (at-n.table)%pageSize
	err := n.tables.View(ctx, n.file, func() int64 { return start }, func(s *clustertable.Slice) {
		entry = binary.LittleEndian.Uint32(s.Data[at-start:])
	})
	if err != nil || entry == absent {
		return x, err
	}
	host := n.data + int64(entry)*(n.bitmap+n.unit)
	if n.bitmap > 0 {
		here := false
		if host >= n.file.Size() {
			return x, driver.Errorf(driver.ErrCorrupt, "the extent of guest offset %#x is at offset %#x, beyond the end of the file", unit*n.unit, host)
		}
		err := n.bitmaps.View(ctx, n.file, func() int64 { return host }, func(s *clustertable.Slice) {
			here, x.Length = run(s.Data, in, x.Length)
		})
		if err != nil || !here {
			return x, err
		}
	}
	x.Kind, x.Child, x.HostOffset, x.HasOffset = driver.ExtentData, n.file, host+n.bitmap+in, true
	return x, nil
}

// run tells whether the sector at byte in of an extent is set in its bitmap, and how
// many of length bytes from there on are in sectors that are the same.
func run(bitmap []byte, in, length int64) (set bool, n int64) {
	bit := func(off int64) bool { return bitmap[off/sectorSize/8]>>(off/sectorSize%8)&1 != 0 }
	set = bit(in)
	n = sectorSize - in%sectorSize
	for n < length && bit(in+n) == set {
		n += sectorSize
	}
	return set, min(n, length)
}
