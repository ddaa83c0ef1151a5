package vmdk

import (
	"context"
	"fmt"
	"io"
	"math"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/internal/chunks"
)

// extent is a part of the disk. Offsets and lengths are in bytes.
type extent struct {
	start  int64
	size   atomic.Int64 // changes with Resize only
	kind   string       // as the descriptor has it; "" for an image that is its own extent
	access string
	file   driver.Storage // nil: zeroes
	events driver.Events  // of file
	name   string         // of the file
	offset int64          // flat: where the data begin in the file

	// Sparse extents:
	disk       *blockmap.Disk // nil: flat, or zeroes
	grain      int64
	zeroGrains bool
	compressed bool
	markers    bool // a marker is in front of the data of a grain
	chunks     *chunks.Reader
	budget     *driver.Budget // of chunks
	zlib       chunks.Zlib
	twin       *twin
	header     *sparseHeader // of a hosted extent that is not compressed
}

func (x *extent) flat() bool { return x.disk == nil && x.file != nil }

// readHead reads the first bytes of a file; what it lacks is zero.
func readHead(ctx context.Context, file driver.Storage, off int64) ([]byte, error) {
	b := make([]byte, headerSize)
	if n, err := file.ReadAt(ctx, b, off); n < len(b) && err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

// openSparse opens a sparse extent of any kind in x.file.
func (n *node) openSparse(ctx context.Context, req *driver.OpenRequest, x *extent) error {
	head, err := readHead(ctx, x.file, 0)
	if err != nil {
		return err
	}
	switch {
	case x.kind == extentSESparse:
		return n.openSE(ctx, req, x, head)
	case string(head[:4]) == magicSparse:
		return n.openHosted(ctx, req, x, decodeSparse(head))
	case string(head[:4]) == magicCOWD:
		return n.openCOWD(req, x, decodeCOWD(head))
	}
	return driver.Errorf(driver.ErrFormat, "image not in VMDK format")
}

// hostedLayout describes a hosted sparse extent of capacity bytes.
func hostedLayout(h *sparseHeader) blockmap.Layout {
	grain := int64(h.grain) * sectorSize
	zero := h.flags&flagZeroGrain != 0
	first := (int64(h.overhead)*sectorSize + grain - 1) / grain * grain
	l := blockmap.Layout{
		Noun: "grain", Unit: grain, Width: 4, Order: le, First: first, Align: grain, Lowest: max(int64(h.overhead)*sectorSize, sectorSize), Grain: 4096,
		Limit: maxHostSector * sectorSize, ZeroState: zero,
		Dir: directory(int64(h.dir), h.directorySize, int64(h.entries)*4),
		Decode: func(raw uint64) blockmap.Entry {
			switch {
			case raw == 0:
				return blockmap.Entry{}
			case raw == 1 && zero:
				return blockmap.Entry{State: blockmap.Zero}
			case h.compressed():
				return blockmap.Entry{State: blockmap.Encoded, Host: int64(raw) * sectorSize, Length: 2 * grain}
			}
			return blockmap.Entry{State: blockmap.Data, Host: int64(raw) * sectorSize}
		},
		Encode: func(e blockmap.Entry) uint64 {
			switch e.State {
			case blockmap.Data:
				return uint64(e.Host / sectorSize)
			case blockmap.Zero:
				return 1
			}
			return 0
		},
	}
	if h.overhead%8 != 0 || h.grain%8 != 0 {
		l.Grain = sectorSize
	}
	// What is in front of the data is in use; a disk that has grown has its directories elsewhere.
	l.Reserved = []driver.Range{{Offset: 0, Length: first}}
	for _, sector := range []uint64{h.redundant, h.dir} {
		if off := int64(min(sector, math.MaxInt64/sectorSize/2)) * sectorSize; off >= first && (sector == h.dir || h.flags&flagRedundant != 0) {
			l.Reserved = append(l.Reserved, driver.Range{Offset: off, Length: h.directorySize * 4})
		}
	}
	return l
}

// directory describes a grain directory of 32-bit entries that name sectors.
func directory(sector, entries, tableBytes int64) *blockmap.Directory {
	return &blockmap.Directory{Off: sector * sectorSize, Entries: entries, Width: 4, TableBytes: tableBytes, Align: sectorSize,
		Decode: func(raw uint64) (int64, bool) { return int64(raw) * sectorSize, true },
		Encode: func(off int64) uint64 { return uint64(off / sectorSize) },
	}
}

// openHosted opens a hosted sparse extent, compressed or not.
func (n *node) openHosted(ctx context.Context, req *driver.OpenRequest, x *extent, h *sparseHeader) error {
	if h.dir == directoryAtEnd {
		footer, err := readFooter(ctx, x.file)
		if err != nil {
			return err
		}
		h = footer
	}
	write := req.Access.Write && x.access == accessRW
	if err := h.check(x.file.Size(), write); err != nil {
		return err
	}
	x.grain, x.compressed, x.markers = int64(h.grain)*sectorSize, h.compressed(), h.flags&flagMarkers != 0
	x.zeroGrains = h.flags&flagZeroGrain != 0
	if !x.compressed {
		x.header = h
	}
	if x.size.Load() == 0 {
		x.size.Store(int64(h.capacity) * sectorSize)
	}
	if x.size.Load() > int64(h.capacity)*sectorSize {
		return driver.Errorf(driver.ErrCorrupt, "the extent has %d sectors, the descriptor says %d", h.capacity, x.size.Load()/sectorSize)
	}
	l := hostedLayout(h)
	file := x.file
	if x.compressed {
		l.Lowest, l.First = sectorSize, sectorSize
		l.Align, l.Grain, l.Reserved, l.Limit = sectorSize, 0, nil, 0
		x.budget = req.Env.Budget
		x.chunks = chunks.NewReader(chunks.Config{Decode: x.decode, Budget: req.Env.Budget})
	}
	if write && !x.compressed {
		if h.flags&flagRedundant != 0 {
			t, err := openTwin(ctx, req.Env, x.file, h)
			if err != nil {
				return err
			}
			x.twin, file = t, t
			l.Reserved = append(l.Reserved, t.last())
		}
	}
	return n.map32(req, x, l, file, write && !x.compressed)
}

// map32 makes the mapping of an extent.
func (n *node) map32(req *driver.OpenRequest, x *extent, l blockmap.Layout, file driver.Storage, write bool) (err error) {
	l.Backing = n.desc.hint != "" || req.BackingGiven
	l.Writable, l.Sequential = write, req.Sequential
	x.events = driver.EventsOf(x.file)
	x.disk, err = blockmap.New(l, blockmap.Hooks{FirstWrite: n.firstWrite, InUse: x.inUse}, file, req.Env, x.size.Load())
	return err
}

// openCOWD opens a sparse extent of ESX.
func (n *node) openCOWD(req *driver.OpenRequest, x *extent, h cowdHeader) error {
	if req.Access.Write && x.access == accessRW {
		return driver.Errorf(driver.ErrReadOnly, "no write support for vmfsSparse images available")
	}
	if err := h.check(x.file.Size()); err != nil {
		return err
	}
	x.grain = h.grain * sectorSize
	if x.size.Load() == 0 {
		x.size.Store(h.capacity * sectorSize)
	}
	l := blockmap.Layout{
		Noun: "grain", Unit: x.grain, Width: 4, Order: le, First: 4 * sectorSize, Align: sectorSize,
		Dir: directory(h.dir, h.directorySize, cowdEntries*4),
		Decode: func(raw uint64) blockmap.Entry {
			if raw == 0 {
				return blockmap.Entry{}
			}
			return blockmap.Entry{State: blockmap.Data, Host: int64(raw) * sectorSize}
		},
		Encode: func(blockmap.Entry) uint64 { return 0 },
	}
	return n.map32(req, x, l, x.file, false)
}

// openSE opens an SE sparse extent.
func (n *node) openSE(ctx context.Context, req *driver.OpenRequest, x *extent, head []byte) error {
	if req.Access.Write && x.access == accessRW {
		return driver.Errorf(driver.ErrReadOnly, "no write support for seSparse images available")
	}
	h, err := decodeSE(head)
	if err != nil {
		return err
	}
	volatile, err := readHead(ctx, x.file, h.volatileOff*sectorSize)
	if err != nil {
		return err
	}
	if err := checkVolatile(volatile); err != nil {
		return err
	}
	if err := h.check(x.file.Size()); err != nil {
		return err
	}
	x.grain, x.zeroGrains = seGrain*sectorSize, true
	if x.size.Load() == 0 {
		x.size.Store(h.capacity * sectorSize)
	}
	const allocated = 0x1 // top half-byte of a directory entry
	l := blockmap.Layout{
		Noun: "grain", Unit: x.grain, Width: 8, Order: le, First: sectorSize, Align: sectorSize,
		Dir: &blockmap.Directory{Off: h.dir * sectorSize, Entries: h.dirSize * sectorSize / 8, Width: 8, TableBytes: seTable * sectorSize, Align: sectorSize,
			Decode: func(raw uint64) (int64, bool) {
				if raw == 0 {
					return 0, true
				}
				return (h.tables + int64(raw&0xffffffff)*seTable) * sectorSize, raw>>32 == allocated<<28
			},
			Encode: func(int64) uint64 { return 0 },
		},
		Decode: func(raw uint64) blockmap.Entry { return decodeSEEntry(raw, h.grains) },
		Encode: func(blockmap.Entry) uint64 { return 0 },
	}
	return n.map32(req, x, l, x.file, false)
}

// decodeSEEntry reads an entry of a grain table: its top half-byte is the state, the
// rest the number of a grain, rotated.
func decodeSEEntry(raw uint64, grains int64) blockmap.Entry {
	switch raw >> 60 {
	case 0:
		if raw == 0 {
			return blockmap.Entry{}
		}
	case 1, 2: // unmapped, or zeroes
		return blockmap.Entry{State: blockmap.Zero}
	case 3:
		if index := raw&0x0fff000000000000>>48 | raw&0x0000ffffffffffff<<12; index < 1<<48 {
			return blockmap.Entry{State: blockmap.Data, Host: (grains + int64(index)*seGrain) * sectorSize}
		}
	}
	return blockmap.Entry{State: blockmap.Bad}
}

// map maps a range within the extent; off is relative to it.
func (x *extent) mapRange(ctx context.Context, off, length int64) (driver.Extent, error) {
	length = min(length, x.size.Load()-off)
	switch {
	case x.access == accessNone:
		return driver.Extent{}, driver.Errorf(driver.ErrUnsupported, "the descriptor says that the extent '%s' must not be read", x.name)
	case x.file == nil:
		return driver.Extent{Length: length, Kind: driver.ExtentZero}, nil
	case x.disk == nil:
		return driver.Extent{Length: length, Kind: driver.ExtentData, Child: x.file, HostOffset: x.offset + off, HasOffset: true, Recurse: true}, nil
	}
	e, err := x.disk.Map(ctx, off, length)
	if e.Child != nil {
		e.Child = x.file // not what keeps the tables twice
	}
	if err != nil && x.kind != "" {
		err = fmt.Errorf("extent '%s': %w", x.name, err)
	}
	return e, err
}
