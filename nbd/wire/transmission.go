package wire

// Lengths of requests and replies without their payload, in bytes.
const (
	RequestLen         = 28
	ExtendedRequestLen = 32
	SimpleReplyLen     = 16
	StructuredReplyLen = 20
	ExtendedReplyLen   = 32
)

// Request is a request of either size.
type Request struct {
	Flags  CmdFlags
	Type   Command
	Cookie uint64
	Offset uint64
	Length uint64 // of the payload or of the effect; 32 bits in a compact request
}

// Put encodes r as a compact request, of RequestLen bytes.
func (r *Request) Put(b []byte) int {
	_ = b[RequestLen-1]
	be.PutUint32(b, RequestMagic)
	r.put(b)
	be.PutUint32(b[24:], uint32(r.Length))
	return RequestLen
}

// PutExtended encodes r as an extended request, of ExtendedRequestLen bytes.
func (r *Request) PutExtended(b []byte) int {
	_ = b[ExtendedRequestLen-1]
	be.PutUint32(b, ExtendedRequestMagic)
	r.put(b)
	be.PutUint64(b[24:], r.Length)
	return ExtendedRequestLen
}

func (r *Request) put(b []byte) {
	be.PutUint16(b[4:], uint16(r.Flags))
	be.PutUint16(b[6:], uint16(r.Type))
	be.PutUint64(b[8:], r.Cookie)
	be.PutUint64(b[16:], r.Offset)
}

// Parse decodes a request of RequestLen bytes, or of ExtendedRequestLen bytes if
// extended. It reports whether the magic number is right.
func (r *Request) Parse(b []byte, extended bool) bool {
	_ = b[RequestLen-1]
	r.Flags, r.Type = CmdFlags(be.Uint16(b[4:])), Command(be.Uint16(b[6:]))
	r.Cookie, r.Offset = be.Uint64(b[8:]), be.Uint64(b[16:])
	if extended {
		r.Length = be.Uint64(b[24:ExtendedRequestLen])
		return be.Uint32(b) == ExtendedRequestMagic
	}
	r.Length = uint64(be.Uint32(b[24:]))
	return be.Uint32(b) == RequestMagic
}

// PutSimpleReply encodes a simple reply.
func PutSimpleReply(b []byte, cookie uint64, errno Errno) int {
	_ = b[SimpleReplyLen-1]
	be.PutUint32(b, SimpleReplyMagic)
	be.PutUint32(b[4:], uint32(errno))
	be.PutUint64(b[8:], cookie)
	return SimpleReplyLen
}

// Chunk is the header of a chunk of a structured or extended reply.
type Chunk struct {
	Flags  uint16
	Type   ChunkType
	Cookie uint64
	Offset uint64 // of the request, extended replies only
	Length uint64 // of the payload; 32 bits in a structured reply
}

// Done says whether this is the last chunk of the reply.
func (c *Chunk) Done() bool { return c.Flags&ReplyFlagDone != 0 }

// PutStructured encodes c as the header of a structured reply.
func (c *Chunk) PutStructured(b []byte) int {
	_ = b[StructuredReplyLen-1]
	be.PutUint32(b, StructuredReplyMagic)
	c.put(b)
	be.PutUint32(b[16:], uint32(c.Length))
	return StructuredReplyLen
}

// PutExtended encodes c as the header of an extended reply.
func (c *Chunk) PutExtended(b []byte) int {
	_ = b[ExtendedReplyLen-1]
	be.PutUint32(b, ExtendedReplyMagic)
	c.put(b)
	be.PutUint64(b[16:], c.Offset)
	be.PutUint64(b[24:], c.Length)
	return ExtendedReplyLen
}

func (c *Chunk) put(b []byte) {
	be.PutUint16(b[4:], c.Flags)
	be.PutUint16(b[6:], uint16(c.Type))
	be.PutUint64(b[8:], c.Cookie)
}

// Reply is the header of a reply of any kind.
type Reply struct {
	Simple bool
	Errno  Errno // simple replies
	Chunk        // others; Cookie always
}

// ReplyMagicLen is how many bytes tell the kind of a reply.
const ReplyMagicLen = 4

// ReplyLen returns the length of the header that begins with b, 0 if no reply
// begins so.
func ReplyLen(b []byte) int {
	switch be.Uint32(b) {
	case SimpleReplyMagic:
		return SimpleReplyLen
	case StructuredReplyMagic:
		return StructuredReplyLen
	case ExtendedReplyMagic:
		return ExtendedReplyLen
	}
	return 0
}

// ParseReply decodes a header of the length that ReplyLen gives.
func ParseReply(b []byte) (r Reply, err error) {
	if len(b) < ReplyMagicLen || ReplyLen(b) == 0 || len(b) < ReplyLen(b) {
		return r, malformed("not a reply")
	}
	switch be.Uint32(b) {
	case SimpleReplyMagic:
		r.Simple, r.Errno, r.Cookie = true, Errno(be.Uint32(b[4:])), be.Uint64(b[8:])
		return r, nil
	case StructuredReplyMagic:
		r.Length = uint64(be.Uint32(b[16:]))
	case ExtendedReplyMagic:
		r.Offset, r.Length = be.Uint64(b[16:]), be.Uint64(b[24:])
	}
	r.Flags, r.Type, r.Cookie = be.Uint16(b[4:]), ChunkType(be.Uint16(b[6:])), be.Uint64(b[8:])
	return r, nil
}

// OffsetHoleLen is the length of the payload of ChunkOffsetHole.
const OffsetHoleLen = 12

// PutOffsetHole encodes the payload of ChunkOffsetHole.
func PutOffsetHole(b []byte, off uint64, n uint32) int {
	be.PutUint64(b, off)
	be.PutUint32(b[8:], n)
	return OffsetHoleLen
}

// ParseOffsetHole decodes the payload of ChunkOffsetHole.
func ParseOffsetHole(b []byte) (off uint64, n uint32, err error) {
	if len(b) != OffsetHoleLen {
		return 0, 0, malformed("hole chunk of %d bytes", len(b))
	}
	return be.Uint64(b), be.Uint32(b[8:]), nil
}

// AppendError encodes the payload of ChunkError, and of ChunkErrorOffset if off
// is not negative.
func AppendError(b []byte, errno Errno, msg string, off int64) []byte {
	b = be.AppendUint16(be.AppendUint32(b, uint32(errno)), uint16(len(msg)))
	b = append(b, msg...)
	if off >= 0 {
		b = be.AppendUint64(b, uint64(off))
	}
	return b
}

// ParseError decodes the payload of an error chunk. off is -1 unless the chunk
// says where.
func ParseError(typ ChunkType, b []byte) (errno Errno, msg string, off int64, err error) {
	if len(b) < 6 {
		return 0, "", -1, malformed("error chunk of %d bytes", len(b))
	}
	errno = Errno(be.Uint32(b))
	n := int(be.Uint16(b[4:]))
	if b = b[6:]; n > len(b) {
		return 0, "", -1, malformed("error message of %d bytes in %d", n, len(b))
	}
	msg, b = string(b[:n]), b[n:]
	off = -1
	switch {
	case typ == ChunkError && len(b) != 0, typ == ChunkErrorOffset && len(b) != 8:
		return 0, "", -1, malformed("error chunk of a wrong length")
	case typ == ChunkErrorOffset:
		off = int64(be.Uint64(b))
	}
	if errno == 0 {
		return 0, "", -1, malformed("error chunk without an error")
	}
	return errno, msg, off, CheckString(msg)
}

// Extent is a part of the answer to CmdBlockStatus.
type Extent struct {
	Length uint64
	Flags  uint64 // as the metadata context defines them
}

// AppendExtents encodes the payload of ChunkBlockStatus, or of
// ChunkBlockStatusExt if extended.
func AppendExtents(b []byte, context uint32, extents []Extent, extended bool) []byte {
	b = be.AppendUint32(b, context)
	if extended {
		b = be.AppendUint32(b, uint32(len(extents)))
	}
	for _, e := range extents {
		if extended {
			b = be.AppendUint64(be.AppendUint64(b, e.Length), e.Flags)
		} else {
			b = be.AppendUint32(be.AppendUint32(b, uint32(e.Length)), uint32(e.Flags))
		}
	}
	return b
}

// ParseExtents decodes the payload of ChunkBlockStatus or ChunkBlockStatusExt.
// There is at least one extent, and none is empty.
func ParseExtents(b []byte, extended bool) (context uint32, extents []Extent, err error) {
	head, unit := 4, 8
	if extended {
		head, unit = 8, 16
	}
	if len(b) < head+unit || (len(b)-head)%unit != 0 {
		return 0, nil, malformed("block status of %d bytes", len(b))
	}
	n := (len(b) - head) / unit
	context = be.Uint32(b)
	// A count of zero means that the server did not count.
	if extended && be.Uint32(b[4:]) != 0 && uint64(be.Uint32(b[4:])) != uint64(n) {
		return 0, nil, malformed("block status of %d extents says %d", n, be.Uint32(b[4:]))
	}
	extents = make([]Extent, 0, n)
	for b = b[head:]; len(b) > 0; b = b[unit:] {
		var e Extent
		if extended {
			e = Extent{be.Uint64(b), be.Uint64(b[8:])}
		} else {
			e = Extent{uint64(be.Uint32(b)), uint64(be.Uint32(b[4:]))}
		}
		if e.Length == 0 {
			return 0, nil, malformed("block status with an empty extent")
		}
		extents = append(extents, e)
	}
	return context, extents, nil
}

// AppendStatusPayload encodes the payload that CmdBlockStatus has with
// CmdFlagPayloadLen: the length asked about and the contexts wanted.
func AppendStatusPayload(b []byte, length uint64, contexts []uint32) []byte {
	b = be.AppendUint64(b, length)
	for _, id := range contexts {
		b = be.AppendUint32(b, id)
	}
	return b
}

// ParseStatusPayload decodes what AppendStatusPayload encodes. At least one
// context is named, and none twice.
func ParseStatusPayload(b []byte) (length uint64, contexts []uint32, err error) {
	if len(b) < 12 || len(b)%4 != 0 {
		return 0, nil, malformed("block status request of %d bytes", len(b))
	}
	length = be.Uint64(b)
	seen := make(map[uint32]bool)
	for b = b[8:]; len(b) > 0; b = b[4:] {
		id := be.Uint32(b)
		if seen[id] {
			return 0, nil, malformed("context %d asked for twice", id)
		}
		seen[id] = true
		contexts = append(contexts, id)
	}
	return length, contexts, nil
}
