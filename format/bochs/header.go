package bochs

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	sectorSize = 512
	entrySize  = 4
	absent     = math.MaxUint32 // entry of an extent or page that has no room

	redologSize    = 512
	redologMagic   = "Bochs Virtual HD Image"
	redologType    = "Redolog"
	redologV1      = 0x00010000
	redologV2      = 0x00020000
	maxCatalog     = 0x100000 // entries; enough for the largest disk that Bochs makes
	maxExtent      = 8 << 20  // bytes
	subtypeGrowing = "Growing"

	sparseSize   = 256
	sparseMagic  = 0x02468ace
	sparseV1     = 1 // the header has no size of the disk
	sparseV2     = 2
	maxPageTable = 1 << 28 // entries
)

// layout says where the parts of an image are. Sizes and offsets are in bytes.
type layout struct {
	size    int64
	overlay bool  // what is not here is in another disk
	table   int64 // offset of the catalog, or of the table of pages
	entries int64
	unit    int64 // of an extent, or a page
	data    int64 // offset of the first unit
	bitmap  int64 // room in front of the data of a unit; 0: there is no bitmap
}

// text is a string that ends at the first NUL.
func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// isRedolog and isSparse tell whether an image begins as such a one does.
func isRedolog(head []byte) bool {
	if len(head) < redologSize || text(head[:32]) != redologMagic || text(head[32:48]) != redologType {
		return false
	}
	switch text(head[48:64]) {
	case subtypeGrowing, "Undoable", "Volatile":
	default:
		return false
	}
	v := binary.LittleEndian.Uint32(head[64:])
	return v == redologV1 || v == redologV2
}

func isSparse(head []byte) bool {
	if len(head) < sparseSize || binary.LittleEndian.Uint32(head) != sparseMagic {
		return false
	}
	v := binary.LittleEndian.Uint32(head[4:])
	return v == sparseV1 || v == sparseV2
}

// decodeHeader reads the first bytes of an image.
func decodeHeader(head []byte) (layout, error) {
	switch {
	case isRedolog(head):
		return decodeRedolog(head)
	case isSparse(head):
		return decodeSparse(head)
	}
	return layout{}, driver.Errorf(driver.ErrFormat, "image not in Bochs format")
}

func decodeRedolog(head []byte) (layout, error) {
	u32 := func(off int) int64 { return int64(binary.LittleEndian.Uint32(head[off:])) }
	l := layout{overlay: text(head[48:64]) != subtypeGrowing, table: u32(68), entries: u32(72), unit: u32(80)}
	bitmap, disk := u32(76), binary.LittleEndian.Uint64(head[88:])
	if u32(64) == redologV1 {
		disk = binary.LittleEndian.Uint64(head[84:])
	}
	sectors := disk / sectorSize
	switch {
	case l.entries > maxCatalog:
		return l, driver.Errorf(driver.ErrCorrupt, "catalog size is too large")
	case l.unit < sectorSize:
		return l, driver.Errorf(driver.ErrCorrupt, "extent size must be at least %d", sectorSize)
	case l.unit&(l.unit-1) != 0:
		return l, driver.Errorf(driver.ErrCorrupt, "extent size %d is not a power of two", l.unit)
	case l.unit > maxExtent:
		return l, driver.Errorf(driver.ErrCorrupt, "extent size %d is too large", l.unit)
	case uint64(l.entries) < sectors/uint64(l.unit/sectorSize) || uint64(l.entries)*uint64(l.unit/sectorSize) < sectors:
		return l, driver.Errorf(driver.ErrCorrupt, "catalog size is too small for this disk size")
	case bitmap*8 < l.unit/sectorSize:
		return l, driver.Errorf(driver.ErrCorrupt, "a bitmap of %d bytes is too small for extents of %d bytes", bitmap, l.unit)
	case l.table < sectorSize:
		return l, driver.Errorf(driver.ErrCorrupt, "the catalog at offset %d lies in the header", l.table)
	}
	l.size = int64(sectors) * sectorSize
	l.data = l.table + l.entries*entrySize
	l.bitmap = (bitmap + sectorSize - 1) / sectorSize * sectorSize
	return l, nil
}

func decodeSparse(head []byte) (layout, error) {
	u32 := func(off int) int64 { return int64(binary.LittleEndian.Uint32(head[off:])) }
	l := layout{table: sparseSize, unit: u32(8), entries: u32(12)}
	switch {
	case l.unit < sectorSize || l.unit&(l.unit-1) != 0:
		return l, driver.Errorf(driver.ErrCorrupt, "page size %d is not a power of two of at least %d", l.unit, sectorSize)
	case l.entries > maxPageTable || bits.Len64(uint64(l.entries))+bits.Len64(uint64(l.unit)) > 62:
		return l, driver.Errorf(driver.ErrCorrupt, "%d pages of %d bytes are too many", l.entries, l.unit)
	}
	l.size = l.entries * l.unit
	if u32(4) == sparseV2 {
		size := binary.LittleEndian.Uint64(head[16:])
		if size > uint64(l.size) {
			return l, driver.Errorf(driver.ErrCorrupt, "%d pages of %d bytes are too few for a disk of %d bytes", l.entries, l.unit, size)
		}
		l.size = int64(size)
	}
	// Pages begin at a multiple of their size.
	l.data = (l.table + l.entries*entrySize + l.unit - 1) / l.unit * l.unit
	return l, nil
}
