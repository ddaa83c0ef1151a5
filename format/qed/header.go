package qed

import (
	"encoding/binary"
	"math/bits"

	"github.com/cowl-disk/cowl/block/driver"
)

// Section "Header".
const (
	magic      = "QED\x00"
	headerSize = 64

	featureBacking = 1 << 0
	featureCheck   = 1 << 1
	featureNoProbe = 1 << 2 // the backing file is raw
	featureMask    = featureBacking | featureCheck | featureNoProbe

	minCluster, maxCluster = 1 << 12, 1 << 26
	minTable, maxTable     = 1, 16 // clusters

	defaultCluster = 65536
	defaultTable   = 4

	// maxBackingName is the longest name that QEMU reads.
	maxBackingName = 1023
	sectorSize     = 512
)

// header is the first 64 bytes of an image.
type header struct {
	cluster             int64  // bytes
	table               int64  // clusters that L1 and L2 tables have
	headerClusters      uint32 // that the header and what follows it have
	features            uint64
	compat, autoclear   uint64
	l1                  uint64 // offset
	size                uint64
	backingOff, backLen uint32
}

func decodeHeader(b []byte) *header {
	le := binary.LittleEndian
	return &header{
		cluster: int64(le.Uint32(b[4:])), table: int64(le.Uint32(b[8:])), headerClusters: le.Uint32(b[12:]),
		features: le.Uint64(b[16:]), compat: le.Uint64(b[24:]), autoclear: le.Uint64(b[32:]),
		l1: le.Uint64(b[40:]), size: le.Uint64(b[48:]), backingOff: le.Uint32(b[56:]), backLen: le.Uint32(b[60:]),
	}
}

func (h *header) encode() []byte {
	le := binary.LittleEndian
	b := append(make([]byte, 0, headerSize), magic...)
	b = le.AppendUint32(b, uint32(h.cluster))
	b = le.AppendUint32(b, uint32(h.table))
	b = le.AppendUint32(b, h.headerClusters)
	for _, v := range []uint64{h.features, h.compat, h.autoclear, h.l1, h.size} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, h.backingOff)
	return le.AppendUint32(b, h.backLen)
}

func validCluster(n int64) bool { return n >= minCluster && n <= maxCluster && n&(n-1) == 0 }
func validTable(n int64) bool   { return n >= minTable && n <= maxTable && n&(n-1) == 0 }

// maxSize is the size of the largest disk that tables of a size can map, modulo 2^64 as
// QEMU computes it: 0, and so no disk at all, for the largest clusters and tables.
func maxSize(cluster, table int64) uint64 {
	shift := 2*(bits.TrailingZeros64(uint64(cluster*table))-3) + bits.TrailingZeros64(uint64(cluster))
	if shift >= 64 {
		return 0
	}
	return 1 << shift
}

func validSize(size uint64, cluster, table int64) bool {
	return size%sectorSize == 0 && size <= maxSize(cluster, table) && size < 1<<62
}

// check refuses a header that cannot be worked with, in the order in which QEMU does.
// fileSize is the length of the file.
func (h *header) check(fileSize int64) error {
	switch {
	case h.features&^featureMask != 0:
		return driver.Errorf(driver.ErrUnsupported, "unsupported QED features: %x", h.features&^featureMask)
	case !validCluster(h.cluster):
		return corrupt("QED cluster size is invalid")
	case !validTable(h.table):
		return corrupt("QED table size is invalid")
	case !validSize(h.size, h.cluster, h.table):
		return corrupt("QED image size is invalid")
	case !h.validTableOffset(h.l1, fileSize):
		return corrupt("QED table offset is invalid")
	case uint64(h.headerClusters) > 0xffffffff/uint64(h.cluster):
		return corrupt("QED header size is too large")
	case h.features&featureBacking != 0 && uint64(h.backingOff)+uint64(h.backLen) > uint64(h.headerBytes()):
		return corrupt("QED backing filename offset is invalid")
	case h.features&featureBacking != 0 && h.backLen > maxBackingName:
		return corrupt("failed to read backing filename")
	}
	return nil
}

func (h *header) headerBytes() int64 { return int64(h.headerClusters) * h.cluster }
func (h *header) tableBytes() int64  { return h.table * h.cluster }
func (h *header) entries() int64     { return h.tableBytes() / 8 }

// validTableOffset says whether a table can lie at off of a file of a length.
func (h *header) validTableOffset(off uint64, fileSize int64) bool {
	return off%uint64(h.cluster) == 0 && off >= uint64(h.headerBytes()) && fileSize >= h.tableBytes() && off <= uint64(fileSize-h.tableBytes())
}

func corrupt(format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, format, args...)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
