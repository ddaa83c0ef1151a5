package asif

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

const (
	// pageSize is how much of a table is read at a time.
	pageSize = 4096
	// maxRun bounds the work of one look for where an extent ends, in pieces.
	maxRun = 64 << 10

	chunkMask = 1<<55 - 1 // of an entry; the rest are flags

	// The states of chunks, in the top bits of an entry.
	stateAbsent  = 0
	stateFull    = 1
	statePartial = 3

	// The states of sectors.
	sectorAbsent  = 0
	sectorPresent = 1
)

// node is an open image. Only its cache changes after Open.
type node struct {
	layout
	file   driver.Storage
	dir    int64 // of the directory that counts
	tables *clustertable.Cache
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.size }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return driver.Limits{ClusterSize: n.chunk} }

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits { return driver.Traits{FixedSize: true} }

// Flush implements driver.Node.
func (n *node) Flush(context.Context) error { return nil }

// Close implements driver.Node.
func (n *node) Close(context.Context) error { return nil }

// Info implements driver.Describer.
func (n *node) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{ClusterSize: n.chunk}, nil
}

// ReadEncoded implements driver.Format; Map never asks for it.
func (n *node) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrInvalid, "ASIF images have no encoded extents")
}

// word returns the 64 bits at an offset of the file, which lies in it as a whole.
func (n *node) word(ctx context.Context, off int64) (v uint64, err error) {
	var b [8]byte
	for i := 0; i < len(b) && err == nil; { // a directory need not be aligned
		at := off + int64(i)
		start := at / pageSize * pageSize
		// Offset 0 stands for no slice.
		if start == 0 {
			var got int
			got, err = n.file.ReadAt(ctx, b[i:min(len(b), i+int(pageSize-at))], at)
			i += got
			continue
		}
		err = n.tables.View(ctx, n.file, func() int64 { return start }, func(s *clustertable.Slice) {
			i += copy(b[i:], s.Data[at-start:])
		})
	}
	return be.Uint64(b[:]), err
}

// place returns the offset of a chunk of the file, which must lie in it.
func (n *node) place(what string, index uint64) (int64, error) {
	if index == 0 || index > uint64(n.file.Size()-1)/uint64(n.chunk) {
		return 0, corrupt("%s is said to be chunk %d, and the file has %d bytes", what, index, n.file.Size())
	}
	return int64(index) * n.chunk, nil
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
	return first, ctx.Err()
}

// one maps a range as far as one entry goes.
func (n *node) one(ctx context.Context, off, length int64) (driver.Extent, error) {
	zero := func(end int64) (driver.Extent, error) {
		return driver.Extent{Kind: driver.ExtentZero, Length: min(length, end-off)}, nil
	}
	table := off / n.perTable()
	index, err := n.word(ctx, n.dir+8+8*table)
	if err != nil {
		return driver.Extent{}, err
	}
	if index == 0 {
		return zero((table + 1) * n.perTable())
	}
	at, err := n.place("a table", index)
	if err != nil {
		return driver.Extent{}, err
	}
	chunk, in := off%n.perTable()/n.chunk, off%n.chunk
	group := at + chunk/n.group*8*(n.group+1)
	entry, err := n.word(ctx, group+chunk%n.group*8)
	if err != nil {
		return driver.Extent{}, err
	}
	state := entry >> 62
	if entry&(1<<62-1) == 0 && state == stateAbsent {
		return zero(off - in + n.chunk)
	}
	if state != stateFull && state != statePartial {
		return driver.Extent{}, driver.Errorf(driver.ErrUnsupported, "the chunk at offset %d has the entry %#x, whose meaning is not known", off-in, entry)
	}
	host, err := n.place("a chunk", entry&chunkMask)
	if err != nil {
		return driver.Extent{}, err
	}
	x := driver.Extent{Kind: driver.ExtentData, Length: min(length, n.chunk-in), Child: n.file, HostOffset: host + in, HasOffset: true}
	if state == stateFull {
		return x, nil
	}
	bits, err := n.word(ctx, group+n.group*8)
	if err != nil {
		return driver.Extent{}, err
	}
	bitmap, err := n.place("a bitmap", bits&chunkMask)
	if err != nil {
		return driver.Extent{}, err
	}
	return n.sectors(ctx, x, off, in, bitmap+chunk%n.group*(n.chunk/n.sector/4))
}

// sectors cuts x, which begins at in of a chunk, where the sectors that are there begin or
// end. The bits of the chunk are at bits.
func (n *node) sectors(ctx context.Context, x driver.Extent, off, in, bits int64) (driver.Extent, error) {
	first, end := in/n.sector, (in+x.Length-1)/n.sector+1
	var word uint64
	var state byte
	for s := first; s < end; s++ {
		if s == first || s%32 == 0 {
			var err error
			if word, err = n.word(ctx, bits+s/32*8); err != nil {
				return driver.Extent{}, err
			}
		}
		got := byte(word>>(56-s%32/4*8)) >> (s % 4 * 2) & 3
		if s > first && got != state {
			x.Length = s*n.sector - in
			break
		}
		state = got
	}
	switch state {
	case sectorPresent:
		return x, nil
	case sectorAbsent:
		return driver.Extent{Kind: driver.ExtentZero, Length: x.Length}, nil
	}
	return driver.Extent{}, driver.Errorf(driver.ErrUnsupported, "the sector at offset %d has the state %d, whose meaning is not known", off, state)
}
