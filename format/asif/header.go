package asif

import (
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	magic      = "shdw"
	headerSize = 0x4c + 4
	version    = 1

	// Offsets of the fields.
	offVersion     = 0x04
	offDirectories = 0x10 // two offsets
	offSectors     = 0x30
	offMaxSectors  = 0x38
	offChunk       = 0x40
	offSectorSize  = 0x44

	minChunk, maxChunk = 64 << 10, 64 << 20
	maxSize            = 1 << 60
)

var be = binary.BigEndian

// layout is what the header says, in bytes, and what follows from it.
type layout struct {
	size   int64
	chunk  int64
	sector int64
	dirs   [2]int64
	group  int64 // data chunks of a group
	groups int64 // of a table
}

// perTable is how many bytes of the disk a table is for.
func (l *layout) perTable() int64 { return l.groups * l.group * l.chunk }

// tables is how many the disk has.
func (l *layout) tables() int64 { return (l.size + l.perTable() - 1) / l.perTable() }

func corrupt(format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, format, args...)
}

// decodeHeader reads a header, for a file of a length.
func decodeHeader(b []byte, length int64) (*layout, error) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return nil, driver.Errorf(driver.ErrFormat, "image not in ASIF format")
	}
	if v := be.Uint32(b[offVersion:]); v != version {
		return nil, driver.Errorf(driver.ErrUnsupported, "version %d of the ASIF format is not known", v)
	}
	l := &layout{chunk: int64(be.Uint32(b[offChunk:])), sector: int64(be.Uint16(b[offSectorSize:]))}
	if l.sector != 512 && l.sector != 4096 || l.chunk < minChunk || l.chunk > maxChunk || l.chunk&(l.chunk-1) != 0 {
		return nil, corrupt("chunks of %d bytes with sectors of %d cannot be", l.chunk, l.sector)
	}
	sectors, most := be.Uint64(b[offSectors:]), be.Uint64(b[offMaxSectors:])
	if sectors > most || sectors > maxSize/uint64(l.sector) {
		return nil, corrupt("a disk of %d sectors, of %d at most, cannot be", sectors, most)
	}
	l.size = int64(sectors) * l.sector
	l.group = 4 * l.sector
	if l.groups = l.chunk / (8 * (l.group + 1)); l.groups == 0 {
		return nil, corrupt("a table of %d bytes has no room for a group of %d chunks", l.chunk, l.group)
	}
	need := 8 + l.tables()*8
	for i := range l.dirs {
		off := be.Uint64(b[offDirectories+8*i:])
		if off < headerSize || off > uint64(max(0, length-need)) {
			return nil, corrupt("the directory of %d bytes at offset %d lies behind the end of the file", need, off)
		}
		l.dirs[i] = int64(off)
	}
	return l, nil
}
