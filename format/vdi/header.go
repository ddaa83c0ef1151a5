package vdi

import (
	"encoding/binary"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	headerSize = 512
	sectorSize = 512

	signature  = 0xbeda107f
	version1_1 = 0x00010001

	typeDynamic = 1
	typeStatic  = 2
	typeUndo    = 3
	typeDiff    = 4

	defaultBlock = 1 << 20

	// Table entries from discarded on name no block.
	discarded   = 0xfffffffe
	unallocated = 0xffffffff

	// maxBlocks is as many as QEMU takes, whose table has 0x7fffffff bytes at most.
	maxBlocks = 0x7fffffff / 4 / 128 * 128
)

// maxSize is the size of the largest disk with default blocks.
const maxSize = maxBlocks * int64(defaultBlock)

// Offsets of the fields in the header.
const (
	offText       = 0x00
	offSignature  = 0x40
	offVersion    = 0x44
	offHeaderSize = 0x48
	offType       = 0x4c
	offTable      = 0x154
	offData       = 0x158
	offSectorSize = 0x168
	offDiskSize   = 0x170
	offBlockSize  = 0x178
	offBlockExtra = 0x17c
	offBlocks     = 0x180
	offAllocated  = 0x184
	offImageUUID  = 0x188
	offSnapUUID   = 0x198
	offLinkUUID   = 0x1a8
	offParentUUID = 0x1b8
)

const headerText = "<<< QEMU VM Virtual Disk Image >>>\n"

type uuid [16]byte

// String returns the usual form of an identifier: the first three fields are numbers.
func (u uuid) String() string {
	return fmt.Sprintf("{%x-%x-%x-%x-%x}", []byte{u[3], u[2], u[1], u[0]}, []byte{u[5], u[4]}, []byte{u[7], u[6]}, u[8:10], u[10:])
}

// header is the first sector of an image.
type header struct {
	raw [headerSize]byte // what was read, for the fields that are not known

	imageType          uint32
	table, data        int64 // offsets
	size               int64
	block, extra       int64
	blocks, allocated  uint32
	image, snap        uuid
	link, parentChange uuid // of the parent: the image, and its state
}

// decodeHeader decodes a header and refuses what cannot be worked with, in the
// order in which QEMU does.
func decodeHeader(b []byte) (*header, error) {
	h := &header{}
	copy(h.raw[:], b)
	le := binary.LittleEndian
	u32 := func(off int) uint32 { return le.Uint32(h.raw[off:]) }
	h.imageType, h.table, h.data = u32(offType), int64(u32(offTable)), int64(u32(offData))
	h.block, h.extra = int64(u32(offBlockSize)), int64(u32(offBlockExtra))
	h.blocks, h.allocated = u32(offBlocks), u32(offAllocated)
	for off, id := range map[int]*uuid{offImageUUID: &h.image, offSnapUUID: &h.snap, offLinkUUID: &h.link, offParentUUID: &h.parentChange} {
		copy(id[:], h.raw[off:])
	}
	size := le.Uint64(h.raw[offDiskSize:])
	limit := uint64(maxSize)
	if h.block > defaultBlock {
		limit = maxBlocks * uint64(h.block)
	}
	if size > limit {
		return nil, unsupported("unsupported VDI image size (size is 0x%x, max supported is 0x%x)", size, limit)
	}
	h.size = int64((size + sectorSize - 1) &^ (sectorSize - 1)) // VirtualBox makes odd sizes
	switch v := u32(offVersion); {
	case u32(offSignature) != signature:
		return nil, driver.Errorf(driver.ErrFormat, "image not in VDI format (bad signature %08x)", u32(offSignature))
	case v != version1_1:
		return nil, unsupported("unsupported VDI image (version %d.%d)", v>>16, v&0xffff)
	case h.table%sectorSize != 0:
		return nil, unsupported("unsupported VDI image (unaligned block map offset 0x%x)", h.table)
	case h.data%sectorSize != 0:
		return nil, unsupported("unsupported VDI image (unaligned data offset 0x%x)", h.data)
	case u32(offSectorSize) != sectorSize:
		return nil, unsupported("unsupported VDI image (sector size %d is not %d)", u32(offSectorSize), sectorSize)
	case h.block < sectorSize || h.block&(h.block-1) != 0:
		return nil, unsupported("unsupported VDI image (block size %d is not %d)", h.block, defaultBlock)
	case h.size > int64(h.blocks)*h.block:
		return nil, unsupported("unsupported VDI image (disk size %d, image bitmap has room for %d)", h.size, int64(h.blocks)*h.block)
	case h.blocks > maxBlocks:
		return nil, unsupported("unsupported VDI image (too many blocks %d, max is %d)", h.blocks, maxBlocks)
	case h.imageType != typeDynamic && h.imageType != typeStatic && h.imageType != typeDiff && h.imageType != typeUndo:
		return nil, unsupported("unsupported VDI image (type %d)", h.imageType)
	}
	if h.table < headerSize || h.data < h.table+int64(h.blocks)*4 {
		return nil, driver.Errorf(driver.ErrCorrupt, "the block map of %d entries at %d reaches into the data at %d", h.blocks, h.table, h.data)
	}
	return h, nil
}

// encode returns the sector that holds h. What the fields do not say is as read.
func (h *header) encode() []byte {
	le := binary.LittleEndian
	b := h.raw
	le.PutUint32(b[offType:], h.imageType)
	le.PutUint32(b[offTable:], uint32(h.table))
	le.PutUint32(b[offData:], uint32(h.data))
	le.PutUint64(b[offDiskSize:], uint64(h.size))
	le.PutUint32(b[offBlockSize:], uint32(h.block))
	le.PutUint32(b[offBlocks:], h.blocks)
	le.PutUint32(b[offAllocated:], h.allocated)
	copy(b[offImageUUID:], h.image[:])
	copy(b[offSnapUUID:], h.snap[:])
	copy(b[offLinkUUID:], h.link[:])
	copy(b[offParentUUID:], h.parentChange[:])
	return b[:]
}

// newHeader returns the header of a new image.
func newHeader() *header {
	h := &header{imageType: typeDynamic, table: headerSize, block: defaultBlock}
	le := binary.LittleEndian
	copy(h.raw[offText:], headerText)
	le.PutUint32(h.raw[offSignature:], signature)
	le.PutUint32(h.raw[offVersion:], version1_1)
	le.PutUint32(h.raw[offHeaderSize:], 0x180)
	le.PutUint32(h.raw[offSectorSize:], sectorSize)
	return h
}

func unsupported(format string, args ...any) error {
	return driver.Errorf(driver.ErrUnsupported, format, args...)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
