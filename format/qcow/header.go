package qcow

import (
	"encoding/binary"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	magic      = "QFI\xfb"
	version    = 1
	headerSize = 48
	sectorSize = 512

	cryptNone = 0
	cryptAES  = 1

	maxBackingName = 1023
	// maxL1 is how many entries of the L1 table QEMU reads.
	maxL1 = math.MaxInt32 / 8

	flagCompressed = 1 << 63
)

// header is the first 48 bytes of an image.
type header struct {
	backingOff      uint64
	backingLen      uint32
	mtime           uint32
	size            uint64
	clusterBits     uint8
	l2Bits          uint8 // entries of an L2 table
	crypt           uint32
	l1              uint64 // offset
	l1Size          int64
	cluster, tables int64 // bytes
}

// decodeHeader decodes a header and refuses what cannot be worked with, in the order
// in which QEMU does.
func decodeHeader(b []byte) (*header, error) {
	be := binary.BigEndian
	h := &header{backingOff: be.Uint64(b[8:]), backingLen: be.Uint32(b[16:]), mtime: be.Uint32(b[20:]), size: be.Uint64(b[24:]),
		clusterBits: b[32], l2Bits: b[33], crypt: be.Uint32(b[36:]), l1: be.Uint64(b[40:])}
	switch v := be.Uint32(b[4:]); {
	case string(b[:4]) != magic:
		return nil, driver.Errorf(driver.ErrFormat, "image not in qcow format")
	case v != version:
		return nil, versionError(v)
	case h.size <= 1:
		return nil, corrupt("image size is too small (must be at least 2 bytes)")
	case h.clusterBits < 9 || h.clusterBits > 16:
		return nil, corrupt("cluster size must be between 512 and 64k")
	case h.l2Bits < 9-3 || h.l2Bits > 16-3:
		return nil, corrupt("L2 table size must be between 512 and 64k")
	case h.crypt != cryptNone && h.crypt != cryptAES:
		return nil, driver.Errorf(driver.ErrUnsupported, "invalid encryption method in qcow header")
	}
	h.derive()
	switch {
	case h.size > math.MaxInt64 || h.l1Size > maxL1:
		return nil, corrupt("image too large")
	case h.l1 < headerSize || h.l1 > 1<<61:
		return nil, driver.Errorf(driver.ErrCorrupt, "the L1 table cannot lie at %d", h.l1)
	case h.backingOff != 0 && h.backingLen > maxBackingName:
		return nil, corrupt("backing file name too long")
	}
	return h, nil
}

// derive computes what follows from the fields.
func (h *header) derive() {
	h.cluster, h.tables = 1<<h.clusterBits, 8<<h.l2Bits
	per := uint64(1) << (h.clusterBits + h.l2Bits)
	h.l1Size = int64(h.size / per)
	if h.size%per != 0 {
		h.l1Size++
	}
}

func (h *header) encode() []byte {
	be := binary.BigEndian
	b := append(make([]byte, 0, headerSize), magic...)
	b = be.AppendUint32(b, version)
	b = be.AppendUint64(b, h.backingOff)
	b = be.AppendUint32(b, h.backingLen)
	b = be.AppendUint32(b, h.mtime)
	b = be.AppendUint64(b, h.size)
	b = append(b, h.clusterBits, h.l2Bits, 0, 0)
	b = be.AppendUint32(b, h.crypt)
	return be.AppendUint64(b, h.l1)
}

func (h *header) l1End() int64 { return int64(h.l1) + h.l1Size*8 }

// offsetMask has the bits of a table entry that are an offset in the file.
func (h *header) offsetMask() uint64 { return 1<<(63-h.clusterBits) - 1 }

func corrupt(format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, format, args...)
}

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// versionError is that of another format of the same magic.
type versionError uint32

func (e versionError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e versionError) Template() (string, []any) {
	return "qcow (v1) does not support qcow version %d", []any{uint32(e)}
}

// Is recognises the kind.
func (e versionError) Is(target error) bool { return target == driver.ErrUnsupported }

// Hint is a further line for the user.
func (e versionError) Hint() string {
	if e == 2 || e == 3 {
		return "Try the 'qcow2' driver instead."
	}
	return ""
}
