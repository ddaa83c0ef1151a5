package iscsi

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
)

// headerSize is the length of the basic header segment of a PDU.
const headerSize = 48

// header is the basic header segment (RFC 7143, 11.2.1).
type header [headerSize]byte

// Opcodes of the initiator and of the target (RFC 7143, 11.2.1.2).
const (
	opNopOut   = 0x00
	opCommand  = 0x01
	opTaskMgmt = 0x02
	opLogin    = 0x03
	opText     = 0x04
	opDataOut  = 0x05
	opLogout   = 0x06

	opNopIn         = 0x20
	opResponse      = 0x21
	opTaskMgmtReply = 0x22
	opLoginReply    = 0x23
	opTextReply     = 0x24
	opDataIn        = 0x25
	opLogoutReply   = 0x26
	opR2T           = 0x31
	opAsync         = 0x32
	opReject        = 0x3f

	opcodeMask = 0x3f
	immediate  = 0x40
)

// noTag is the reserved task tag.
const noTag = 0xffffffff

// Flags, of the second byte.
const (
	flagFinal     = 0x80
	flagRead      = 0x40 // of a command
	flagWrite     = 0x20 // of a command
	attrSimple    = 0x01 // of a command
	flagContinue  = 0x40 // of a login and a text
	flagUnderflow = 0x02 // of a response
	flagStatus    = 0x01 // of data in
)

const (
	digestSize = 4
	padTo      = 4
)

func (h *header) opcode() byte         { return h[0] & opcodeMask }
func (h *header) ahsLength() int       { return int(h[4]) * 4 }
func (h *header) dataLength() int      { return int(h[5])<<16 | int(h[6])<<8 | int(h[7]) }
func (h *header) tag() uint32          { return h.u32(16) }
func (h *header) u32(at int) uint32    { return binary.BigEndian.Uint32(h[at:]) }
func (h *header) set(at int, v uint32) { binary.BigEndian.PutUint32(h[at:], v) }

func (h *header) setDataLength(n int) { h[5], h[6], h[7] = byte(n>>16), byte(n>>8), byte(n) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func padding(n int) int { return -n & (padTo - 1) }

// digests say which parts of a PDU have a checksum (CRC32C).
type digests struct{ header, data bool }

// batch gathers PDUs that are sent by one call of the system.
type batch struct {
	bufs net.Buffers
	slab []byte // headers, padding and digests
	size int
}

// slabPerPDU is what a PDU takes of the slab at most.
const slabPerPDU = headerSize + digestSize + padTo + digestSize

// newBatch makes room for n PDUs.
func newBatch(n int) *batch {
	return &batch{bufs: make(net.Buffers, 0, 3*n), slab: make([]byte, 0, n*slabPerPDU)}
}

// add adds a PDU. data is not copied.
func (b *batch) add(h *header, data []byte, d digests) {
	h.setDataLength(len(data))
	start := len(b.slab)
	b.slab = append(b.slab, h[:]...)
	if d.header {
		b.slab = binary.LittleEndian.AppendUint32(b.slab, crc32.Checksum(h[:], castagnoli))
	}
	b.bufs = append(b.bufs, b.slab[start:])
	b.size += len(b.slab) - start
	if len(data) == 0 {
		return
	}
	b.bufs = append(b.bufs, data)
	b.size += len(data)
	start = len(b.slab)
	for range padding(len(data)) {
		b.slab = append(b.slab, 0)
	}
	if d.data {
		sum := crc32.Update(crc32.Checksum(data, castagnoli), castagnoli, b.slab[start:])
		b.slab = binary.LittleEndian.AppendUint32(b.slab, sum)
	}
	if len(b.slab) > start {
		b.bufs = append(b.bufs, b.slab[start:])
		b.size += len(b.slab) - start
	}
}

// readHeader reads a basic header segment and drops additional ones.
func readHeader(r io.Reader, h *header, d digests) error {
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return err
	}
	sum := uint32(0)
	if d.header {
		sum = crc32.Checksum(h[:], castagnoli)
	}
	if n := h.ahsLength(); n > 0 {
		ahs := make([]byte, n)
		if _, err := io.ReadFull(r, ahs); err != nil {
			return unexpectedEOF(err)
		}
		if d.header {
			sum = crc32.Update(sum, castagnoli, ahs)
		}
	}
	if !d.header {
		return nil
	}
	return checkDigest(r, sum, "header")
}

// readData reads the data segment of a PDU: as much as fits into p, and drops the rest.
func readData(r io.Reader, p []byte, length int, d digests) error {
	if length == 0 {
		return nil
	}
	p = p[:min(len(p), length)]
	if _, err := io.ReadFull(r, p); err != nil {
		return unexpectedEOF(err)
	}
	sum := uint32(0)
	if d.data {
		sum = crc32.Checksum(p, castagnoli)
	}
	rest := length - len(p) + padding(length)
	var scratch [512]byte
	for rest > 0 {
		n := min(rest, len(scratch))
		if _, err := io.ReadFull(r, scratch[:n]); err != nil {
			return unexpectedEOF(err)
		}
		if d.data {
			sum = crc32.Update(sum, castagnoli, scratch[:n])
		}
		rest -= n
	}
	if !d.data {
		return nil
	}
	return checkDigest(r, sum, "data")
}

func checkDigest(r io.Reader, want uint32, what string) error {
	var b [digestSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return unexpectedEOF(err)
	}
	if binary.LittleEndian.Uint32(b[:]) != want {
		return protocolError("the %s digest of the target is wrong", what)
	}
	return nil
}

func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
