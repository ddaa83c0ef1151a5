package sheepdog

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Sizes and limits of the protocol.
const (
	headerSize = 48
	// protoVersion is the version that clients send. From 2 on a server may leave zeroes at
	// the ends out of what it answers a read with.
	protoVersion = 2

	// MaxName is one more than the longest name of a VDI, and of a tag, in bytes.
	MaxName = 256
	// MaxObjects is how many data objects a VDI has at most.
	MaxObjects = 1 << 20
	// DefaultShift is the size of objects where neither a VDI nor its cluster tells one, as a
	// power of two, MinShift and MaxShift are the bounds.
	DefaultShift, MinShift, MaxShift = 22, 20, 31

	vdiCount     = 1 << 24 // numbers of VDIs
	bitmapSize   = vdiCount / 8
	snapshotFlag = 1 // in place of a snapshot's number: keep the VDI that is there
)

// opcode says what a request is.
type opcode uint8

const (
	opCreate  opcode = 0x01 // and write
	opRead    opcode = 0x02
	opWrite   opcode = 0x03
	opDiscard opcode = 0x05
	opNew     opcode = 0x11
	opLock    opcode = 0x12
	opRelease opcode = 0x13
	opInfo    opcode = 0x14
	opList    opcode = 0x15
	opDelete  opcode = 0x17
	opDefault opcode = 0x18

	// opDeleted is of the protocol between servers, which has a version of its own.
	opDeleted     opcode = 0xc9
	serverVersion byte   = 0x0a
)

// flags of requests.
const (
	flagWrite  = 0x01 // the request has data
	flagCopy   = 0x02 // a new object begins as a copy
	flagDirect = 0x08 // bypass the cache of the server
)

// Kinds of objects, in the highest bits of their numbers.
const vdiBit = 1 << 63

func inodeObject(vdi uint32) uint64            { return vdiBit | uint64(vdi)<<32 }
func dataObject(vdi uint32, idx uint32) uint64 { return uint64(vdi)<<32 | uint64(idx) }

// request is a request. Its data is out; the data of the answer goes to in.
type request struct {
	op    opcode
	flags uint16

	// About objects.
	object, copyOf uint64
	offset         uint32

	// About VDIs.
	size     uint64
	base     uint32
	policy   uint8
	shift    uint8
	snapshot uint32
	copies   uint8 // both kinds
	out, in  []byte
	once     bool // doing it again would do something else
	resent   bool // it was sent more than once

	// From the answer.
	vdi          uint32
	defaultShift uint8
}

func (r *request) aboutObject() bool { return r.op < opNew }

// header encodes the request.
func (r *request) header(id uint32) (h [headerSize]byte) {
	le := binary.LittleEndian
	h[0], h[1] = protoVersion, byte(r.op)
	if r.op >= 0x80 {
		h[0] = serverVersion
	}
	flags, length := r.flags, len(r.out)
	if len(r.out) > 0 {
		flags |= flagWrite
	} else {
		length = len(r.in)
	}
	if r.aboutObject() {
		flags |= flagDirect
	}
	le.PutUint16(h[2:], flags)
	le.PutUint32(h[8:], id)
	le.PutUint32(h[12:], uint32(length))
	if r.aboutObject() {
		le.PutUint64(h[16:], r.object)
		le.PutUint64(h[24:], r.copyOf)
		h[32], h[33] = r.copies, r.policy
		le.PutUint32(h[40:], r.offset)
		return h
	}
	le.PutUint64(h[16:], r.size)
	le.PutUint32(h[24:], r.base)
	h[28], h[29], h[31] = r.copies, r.policy, r.shift
	le.PutUint32(h[32:], r.snapshot)
	return h
}

// reply is the header of an answer.
type reply struct {
	id, length uint32
	result     Result
	rest       [headerSize - 20]byte
}

func parseReply(h *[headerSize]byte) (r reply) {
	le := binary.LittleEndian
	r.id, r.length, r.result = le.Uint32(h[8:]), le.Uint32(h[12:]), Result(le.Uint32(h[16:]))
	copy(r.rest[:], h[20:])
	return r
}

// dataOffset is where in the object the data of an answer to a read begins.
func (r *reply) dataOffset() uint64 { return binary.LittleEndian.Uint64(r.rest[4:]) }

// vdi is the number in an answer about a VDI.
func (r *reply) vdi() uint32 { return binary.LittleEndian.Uint32(r.rest[4:]) }

// defaultShift is the size of objects in the answer about the defaults of a cluster.
func (r *reply) defaultShift() uint8 { return r.rest[2] }

// nameField is a name, with zeroes behind it.
func nameField(names ...string) []byte {
	b := make([]byte, MaxName*len(names))
	for i, name := range names {
		copy(b[i*MaxName:(i+1)*MaxName-1], name)
	}
	return b
}

// text is what a field has before its first zero.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
