package parallels

import (
	"encoding/binary"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	headerSize = 64
	sectorSize = 512

	magicOld = "WithoutFreeSpace" // offsets in sectors
	magicExt = "WithouFreSpacExt" // offsets in clusters
	version  = 2

	inUseMark = 0x746f6e59

	defaultCluster = 1 << 20
	maxEntries     = math.MaxInt32 / 4   // as many as QEMU opens
	maxTracks      = math.MaxInt32 / 513 // sectors of a cluster
	heads          = 16
	sectors        = 32 // of a cylinder, as written by QEMU
)

// header is the first 64 bytes of an image.
type header struct {
	ext                     bool // magicExt
	heads, cylinders        uint32
	tracks                  uint32 // sectors of a cluster
	entries                 uint32
	sectors                 uint64 // of the disk
	inUse, dataOff, flags   uint32
	extOff                  uint64 // of the format extension, in sectors
	dataStart               int64  // where clusters begin, whatever dataOff says
	dataOffWrong, wasUnsafe bool
}

// decodeHeader decodes a header and refuses what cannot be worked with, in the
// order in which QEMU does. fileSize is the length of the file.
func decodeHeader(b []byte, fileSize int64) (*header, error) {
	le := binary.LittleEndian
	h := &header{heads: le.Uint32(b[20:]), cylinders: le.Uint32(b[24:]), tracks: le.Uint32(b[28:]), entries: le.Uint32(b[32:]),
		sectors: le.Uint64(b[36:]), inUse: le.Uint32(b[44:]), dataOff: le.Uint32(b[48:]), flags: le.Uint32(b[52:]), extOff: le.Uint64(b[56:])}
	switch magic := string(b[:16]); {
	case le.Uint32(b[16:]) != version, magic != magicOld && magic != magicExt:
		return nil, driver.Errorf(driver.ErrFormat, "image not in Parallels format")
	case magic == magicOld:
		h.sectors &= math.MaxUint32
	default:
		h.ext = true
	}
	switch {
	case h.tracks == 0:
		return nil, corrupt("invalid image: zero sectors per track")
	case h.tracks > maxTracks:
		return nil, corrupt("invalid image: too big cluster")
	case h.entries > maxEntries:
		return nil, corrupt("catalog too large")
	case h.extOff >= math.MaxInt64>>9:
		return nil, corrupt("invalid image: too big offset")
	case h.sectors > math.MaxInt64>>9:
		return nil, corrupt("invalid image: too many sectors")
	}
	h.wasUnsafe = h.inUse == inUseMark
	h.dataStart, h.dataOffWrong = h.findData(fileSize)
	return h, nil
}

// findData returns where clusters begin, and whether the field says something else that
// cannot be.
func (h *header) findData(fileSize int64) (start int64, wrong bool) {
	least := roundUp(h.tableEnd(), sectorSize)
	if h.ext {
		least = roundUp(least, h.cluster())
	}
	start = int64(h.dataOff) * sectorSize
	switch {
	case h.dataOff == 0 && !h.ext:
		return least, false
	case start < least || start > roundUp(fileSize, sectorSize):
		return least, true
	}
	return start, false
}

func (h *header) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, headerSize)
	if h.ext {
		b = append(b, magicExt...)
	} else {
		b = append(b, magicOld...)
	}
	for _, v := range []uint32{version, h.heads, h.cylinders, h.tracks, h.entries} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(b, h.sectors)
	for _, v := range []uint32{h.inUse, h.dataOff, h.flags} {
		b = le.AppendUint32(b, v)
	}
	return le.AppendUint64(b, h.extOff)
}

func (h *header) cluster() int64  { return int64(h.tracks) * sectorSize }
func (h *header) tableEnd() int64 { return headerSize + int64(h.entries)*4 }

// unit is what table entries count in, in bytes.
func (h *header) unit() int64 {
	if h.ext {
		return h.cluster()
	}
	return sectorSize
}

func corrupt(format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, format, args...)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
