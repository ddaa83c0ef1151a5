package vmdk

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
)

var le = binary.LittleEndian

const (
	magicSparse   = "KDMV"
	magicCOWD     = "COWD"
	magicSESparse = 0xcafebabe
	magicVolatile = 0xcafecafe
	versionSE     = 0x0000000200000001

	headerSize = 512

	// Flags of sparse extents (section "Hosted Sparse Extent Header").
	flagNewline   = 1 << 0
	flagRedundant = 1 << 1
	flagZeroGrain = 1 << 2
	flagCompress  = 1 << 16
	flagMarkers   = 1 << 17

	compressDeflate = 1
	directoryAtEnd  = math.MaxUint64 // of the grain directory: see the footer

	maxVersion   = 3
	maxEntries   = 512      // of a grain table
	maxGrain     = 0x200000 // sectors
	maxDirectory = 32 << 20 // entries
	// maxSparseSize is the largest disk in bytes of an extent as it is made here: its directory is full.
	maxSparseSize = maxDirectory * tableEntries * grainSectors * sectorSize
	// maxHostSector is the first sector that an entry of 32 bits cannot name.
	maxHostSector = 1 << 32

	grainSectors = 128 // of new images
	tableEntries = 512
	tableSectors = tableEntries * 4 / sectorSize
	descSectors  = 20 // room for the descriptor in new images
)

// sparseHeader is that of a sparse extent. Sizes and offsets are in sectors.
type sparseHeader struct {
	version, flags    uint32
	capacity, grain   uint64
	descOff, descSize uint64
	entries           uint32 // of a grain table
	redundant, dir    uint64 // grain directories
	overhead          uint64 // where the first grain may be
	unclean           bool
	compression       uint16
	directorySize     int64 // entries; set by check
}

// decodeSparse reads a header of headerSize bytes, behind its magic.
func decodeSparse(b []byte) *sparseHeader {
	return &sparseHeader{version: le.Uint32(b[4:]), flags: le.Uint32(b[8:]), capacity: le.Uint64(b[12:]), grain: le.Uint64(b[20:]),
		descOff: le.Uint64(b[28:]), descSize: le.Uint64(b[36:]), entries: le.Uint32(b[44:]), redundant: le.Uint64(b[48:]),
		dir: le.Uint64(b[56:]), overhead: le.Uint64(b[64:]), unclean: b[72] != 0, compression: le.Uint16(b[77:])}
}

func (h *sparseHeader) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magicSparse)
	le.PutUint32(b[4:], h.version)
	le.PutUint32(b[8:], h.flags)
	le.PutUint64(b[12:], h.capacity)
	le.PutUint64(b[20:], h.grain)
	le.PutUint64(b[28:], h.descOff)
	le.PutUint64(b[36:], h.descSize)
	le.PutUint32(b[44:], h.entries)
	le.PutUint64(b[48:], h.redundant)
	le.PutUint64(b[56:], h.dir)
	le.PutUint64(b[64:], h.overhead)
	copy(b[73:], "\n \r\n")
	le.PutUint16(b[77:], h.compression)
	return b
}

func (h *sparseHeader) compressed() bool { return h.compression == compressDeflate }

// check refuses what cannot be right, for a file of a size in bytes.
func (h *sparseHeader) check(fileSize int64, write bool) error {
	switch {
	case h.version > maxVersion:
		return driver.Errorf(driver.ErrUnsupported, "unsupported VMDK version %d", h.version)
	case h.version == 3 && write && !h.compressed():
		// Version 3 has a list of changed blocks, which a writer must keep up.
		return driver.Errorf(driver.ErrReadOnly, "VMDK version 3 must be read only")
	case h.entries > maxEntries:
		return driver.Errorf(driver.ErrCorrupt, "L2 table size too big")
	case h.entries == 0 || h.grain == 0:
		return driver.Errorf(driver.ErrCorrupt, "L1 entry size is invalid")
	case h.overhead > uint64(math.MaxInt64/sectorSize) || fileSize+sectorSize-1 < int64(h.overhead)*sectorSize:
		return driver.Errorf(driver.ErrTruncated, "file truncated, expecting at least %d bytes", h.overhead*sectorSize)
	case h.grain > maxGrain:
		return driver.Errorf(driver.ErrCorrupt, "invalid granularity, image may be corrupt")
	case h.capacity > math.MaxInt64/sectorSize/2:
		return driver.Errorf(driver.ErrCorrupt, "L1 size too big")
	}
	per := int64(h.entries) * int64(h.grain)
	h.directorySize = (int64(h.capacity) + per - 1) / per
	if h.directorySize > maxDirectory {
		return driver.Errorf(driver.ErrCorrupt, "L1 size too big")
	}
	if h.dir > math.MaxInt64/sectorSize/2 || int64(h.dir)*sectorSize+h.directorySize*4 > fileSize+sectorSize-1 {
		return driver.Errorf(driver.ErrCorrupt, "the grain directory of %d entries at sector %d reaches beyond the end of the file", h.directorySize, h.dir)
	}
	return nil
}

// cowdHeader is that of a sparse extent of ESX (COWD). Sizes and offsets are in sectors.
type cowdHeader struct{ capacity, grain, dir, directorySize int64 }

const cowdEntries = 4096 // of a grain table

func decodeCOWD(b []byte) cowdHeader {
	u32 := func(off int) int64 { return int64(le.Uint32(b[off:])) }
	return cowdHeader{capacity: u32(12), grain: u32(16), dir: u32(20), directorySize: u32(24)}
}

func (h cowdHeader) check(fileSize int64) error {
	switch {
	case h.grain > maxGrain || h.grain == 0:
		return driver.Errorf(driver.ErrCorrupt, "invalid granularity, image may be corrupt")
	case h.directorySize > maxDirectory:
		return driver.Errorf(driver.ErrCorrupt, "L1 size too big")
	case h.dir*sectorSize+h.directorySize*4 > fileSize+sectorSize-1:
		return driver.Errorf(driver.ErrCorrupt, "the grain directory of %d entries at sector %d reaches beyond the end of the file", h.directorySize, h.dir)
	case h.directorySize*cowdEntries*h.grain < h.capacity:
		return driver.Errorf(driver.ErrCorrupt, "a grain directory of %d entries is too small for %d sectors", h.directorySize, h.capacity)
	}
	return nil
}

// seHeader is the constant header of an SE sparse extent, whose format VMware does not
// document. Sizes and offsets are in sectors.
type seHeader struct {
	capacity, volatileOff, dir, dirSize, tables, grains int64
}

const (
	seGrain   = 8    // sectors
	seTable   = 64   // sectors of a grain table
	seEntries = 4096 // of a grain table
)

func decodeSE(b []byte) (seHeader, error) {
	u := func(i int) uint64 { return le.Uint64(b[8*i:]) }
	switch {
	case u(0) != magicSESparse:
		return seHeader{}, driver.Errorf(driver.ErrFormat, "bad const header magic: %#016x", u(0))
	case u(1) != versionSE:
		return seHeader{}, driver.Errorf(driver.ErrUnsupported, "unsupported version: %#016x", u(1))
	case u(3) != seGrain:
		return seHeader{}, driver.Errorf(driver.ErrUnsupported, "unsupported grain size: %d", u(3))
	case u(4) != seTable:
		return seHeader{}, driver.Errorf(driver.ErrUnsupported, "unsupported grain table size: %d", u(4))
	case u(5) != 0:
		return seHeader{}, driver.Errorf(driver.ErrUnsupported, "unsupported flags: %#016x", u(5))
	case len(bytes.Trim(b[48:80], "\x00")) > 0:
		return seHeader{}, driver.Errorf(driver.ErrUnsupported, "unsupported reserved bits")
	case len(bytes.Trim(b[208:headerSize], "\x00")) > 0:
		return seHeader{}, driver.Errorf(driver.ErrUnsupported, "unsupported non-zero const header padding")
	}
	for _, i := range []int{2, 10, 16, 17, 18, 24} {
		if u(i) > math.MaxInt64/sectorSize/4 {
			return seHeader{}, driver.Errorf(driver.ErrCorrupt, "a size or offset of %d sectors in the header is impossible", u(i))
		}
	}
	return seHeader{capacity: int64(u(2)), volatileOff: int64(u(10)), dir: int64(u(16)), dirSize: int64(u(17)), tables: int64(u(18)), grains: int64(u(24))}, nil
}

func (h seHeader) check(fileSize int64) error {
	entries := h.dirSize * sectorSize / 8
	switch {
	case entries > maxDirectory:
		return driver.Errorf(driver.ErrCorrupt, "L1 size too big")
	case (h.dir+h.dirSize)*sectorSize > fileSize+sectorSize-1:
		return driver.Errorf(driver.ErrCorrupt, "the grain directory of %d sectors at sector %d reaches beyond the end of the file", h.dirSize, h.dir)
	case entries*seEntries*seGrain < h.capacity:
		return driver.Errorf(driver.ErrCorrupt, "a grain directory of %d entries is too small for %d sectors", entries, h.capacity)
	}
	return nil
}

// checkVolatile looks at the second header of an SE sparse extent.
func checkVolatile(b []byte) error {
	switch {
	case le.Uint64(b) != magicVolatile:
		return driver.Errorf(driver.ErrCorrupt, "bad volatile header magic: %#016x", le.Uint64(b))
	case le.Uint64(b[24:]) != 0:
		return driver.Errorf(driver.ErrUnsupported, "image is dirty, replaying journal not supported")
	case len(bytes.Trim(b[32:headerSize], "\x00")) > 0:
		return driver.Errorf(driver.ErrUnsupported, "unsupported non-zero volatile header padding")
	}
	return nil
}
