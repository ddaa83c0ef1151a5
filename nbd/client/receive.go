package client

import (
	"io"
	"slices"

	"github.com/cowl-disk/cowl/nbd/wire"
)

// maxStatus is the longest answer to a block status that is taken.
const maxStatus = 4 << 20

// receive takes replies until the connection ends.
func (c *Conn) receive() {
	for {
		if err := c.receiveOne(); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			c.fail(err)
			return
		}
	}
}

// header reads the header of a reply of the kind that was agreed on.
func (c *Conn) header() (r wire.Reply, err error) {
	b, err := c.br.Peek(wire.ReplyMagicLen)
	if err != nil {
		return r, err
	}
	n := wire.ReplyLen(b)
	ok := n == wire.SimpleReplyLen && c.info.Mode != ModeExtended ||
		n == wire.StructuredReplyLen && c.info.Mode == ModeStructured ||
		n == wire.ExtendedReplyLen && c.info.Mode == ModeExtended
	if !ok {
		return r, violation("unexpected reply magic 0x%x", b)
	}
	if b, err = c.br.Peek(n); err != nil {
		return r, err
	}
	if r, err = wire.ParseReply(b); err == nil {
		c.br.Discard(n)
	}
	return r, err
}

func (c *Conn) receiveOne() error {
	r, err := c.header()
	if err != nil {
		return err
	}
	k := c.find(r.Cookie)
	if k == nil {
		return violation("reply to an unknown request")
	}
	if r.Simple {
		return c.simple(k, &r)
	}
	return c.chunk(k, &r)
}

// find returns the call that a reply belongs to.
func (c *Conn) find(cookie uint64) *call {
	i := uint32(cookie)
	if int64(i) >= int64(len(c.calls)) {
		return nil
	}
	k := c.calls[i]
	c.mu.Lock()
	defer c.mu.Unlock()
	if !k.active || k.cookie() != cookie {
		return nil
	}
	return k
}

func (c *Conn) end(k *call) {
	c.mu.Lock()
	c.finish(k, nil)
	c.mu.Unlock()
}

// simple takes a simple reply.
func (c *Conn) simple(k *call, r *wire.Reply) error {
	if c.info.Mode >= ModeStructured && (k.req.Type == wire.CmdRead || k.req.Type == wire.CmdBlockStatus) {
		return violation("simple reply to %v", k.req.Type)
	}
	if r.Errno != 0 {
		k.failure = &ServerError{Command: k.req.Type, Offset: k.req.Offset, Errno: r.Errno.Known()}
	} else if k.req.Type == wire.CmdRead {
		if err := c.data(k, 0, int(k.req.Length)); err != nil {
			return err
		}
	}
	c.end(k)
	return nil
}

// data reads n bytes to the buffer of a call, or drops them if no caller waits for them.
func (c *Conn) data(k *call, at, n int) error {
	c.mu.Lock()
	k.receiving = !k.abandoned
	receiving, buf := k.receiving, k.buf
	c.mu.Unlock()
	if !receiving {
		_, err := c.br.Discard(n)
		return err
	}
	_, err := io.ReadFull(c.br, buf[at:at+n])
	c.mu.Lock()
	k.receiving = false
	c.signal(k)
	c.cond.Broadcast()
	c.mu.Unlock()
	return err
}

// zeroes clears a range of the buffer of a call.
func (c *Conn) zeroes(k *call, at, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !k.abandoned && k.buf != nil {
		clear(k.buf[at : at+n])
	}
}

// chunk takes a chunk of a structured or extended reply.
func (c *Conn) chunk(k *call, r *wire.Reply) (err error) {
	switch {
	case r.Type == wire.ChunkNone:
		if r.Length != 0 || !r.Done() {
			return violation("bad empty chunk")
		}
	case r.Type == wire.ChunkOffsetData:
		err = c.dataChunk(k, r)
	case r.Type == wire.ChunkOffsetHole:
		err = c.holeChunk(k, r)
	case r.Type == wire.ChunkBlockStatus && c.info.Mode == ModeStructured,
		r.Type == wire.ChunkBlockStatusExt && c.info.Mode == ModeExtended:
		err = c.statusChunk(k, r)
	case r.Type.IsErr():
		err = c.errorChunk(k, r)
	default:
		err = violation("chunk of type %d as reply to %v", r.Type, k.req.Type)
	}
	if err != nil || !r.Done() {
		return err
	}
	if k.failure == nil {
		switch {
		case k.req.Type == wire.CmdRead && k.seen.total != k.req.Length:
			return violation("%d of %d bytes in the reply to a read", k.seen.total, k.req.Length)
		case k.req.Type == wire.CmdBlockStatus && k.extents == nil:
			return violation("block status without the context asked for")
		}
	}
	c.end(k)
	return nil
}

// payload reads the whole of a chunk's payload, which must not be long.
func (c *Conn) payload(r *wire.Reply, limit uint64) ([]byte, error) {
	if r.Length > limit {
		return nil, violation("chunk of type %d of %d bytes", r.Type, r.Length)
	}
	var b []byte
	for left := int(r.Length); left > 0; {
		n := min(left, 64<<10)
		at := len(b)
		b = slices.Grow(b, n)[:at+n]
		if _, err := io.ReadFull(c.br, b[at:]); err != nil {
			return nil, err
		}
		left -= n
	}
	return b, nil
}

// inRead checks that a part of a reply is within the request and overlaps no other part.
func (c *Conn) inRead(k *call, off, n uint64) (at int, err error) {
	req := &k.req
	if req.Type != wire.CmdRead || n == 0 || off < req.Offset || n > req.Length || off-req.Offset > req.Length-n {
		return 0, violation("%d bytes at %d in the reply to %v of %d bytes at %d", n, off, req.Type, req.Length, req.Offset)
	}
	if !k.seen.add(off-req.Offset, n) {
		return 0, violation("chunks of a reply overlap at %d", off)
	}
	return int(off - req.Offset), nil
}

func (c *Conn) dataChunk(k *call, r *wire.Reply) error {
	if r.Length <= 8 {
		return violation("data chunk of %d bytes", r.Length)
	}
	b, err := c.br.Peek(8)
	if err != nil {
		return err
	}
	off := be.Uint64(b)
	c.br.Discard(8)
	at, err := c.inRead(k, off, r.Length-8)
	if err != nil {
		return err
	}
	return c.data(k, at, int(r.Length-8))
}

func (c *Conn) holeChunk(k *call, r *wire.Reply) error {
	b, err := c.payload(r, wire.OffsetHoleLen)
	if err != nil {
		return err
	}
	off, n, err := wire.ParseOffsetHole(b)
	if err != nil {
		return violation("%v", err)
	}
	at, err := c.inRead(k, off, uint64(n))
	if err == nil {
		c.zeroes(k, at, int(n))
	}
	return err
}

func (c *Conn) statusChunk(k *call, r *wire.Reply) error {
	if k.req.Type != wire.CmdBlockStatus {
		return violation("block status as reply to %v", k.req.Type)
	}
	b, err := c.payload(r, maxStatus)
	if err != nil {
		return err
	}
	id, extents, err := wire.ParseExtents(b, c.info.Mode == ModeExtended)
	if err != nil {
		return violation("%v", err)
	}
	if _, known := c.ids[id]; !known || k.contexts[id] {
		return violation("block status of an unexpected context %d", id)
	}
	if k.contexts == nil {
		k.contexts = map[uint32]bool{}
	}
	k.contexts[id] = true
	if id != k.ask.context {
		return nil
	}
	length := k.ask.length
	if k.req.Flags&wire.CmdFlagReqOne != 0 && (len(extents) > 1 || extents[0].Length > length) {
		return violation("more block status than was asked for")
	}
	// Only the last one may reach beyond what was asked about.
	for i := range extents {
		if extents[i].Length >= length {
			if i < len(extents)-1 {
				return violation("block status of more than was asked about")
			}
			extents[i].Length = length
		}
		length -= extents[i].Length
	}
	k.extents = extents
	return nil
}

func (c *Conn) errorChunk(k *call, r *wire.Reply) error {
	b, err := c.payload(r, 6+wire.MaxString+8)
	if err != nil {
		return err
	}
	errno, msg, off, err := wire.ParseError(r.Type, b)
	if err != nil {
		return violation("%v", err)
	}
	if k.failure == nil {
		f := &ServerError{Command: k.req.Type, Offset: k.req.Offset, Errno: errno.Known(), Message: msg}
		if off >= 0 {
			f.Offset = uint64(off)
		}
		k.failure = f
	}
	return nil
}

// coverage records which parts of a read were received.
type coverage struct {
	total uint64
	parts []span // sorted, not touching
}

type span struct{ from, to uint64 }

// maxSpans bounds the memory for a reply whose parts come out of order.
const maxSpans = 4096

func (c *coverage) reset() { c.total, c.parts = 0, c.parts[:0] }

// add records a part; false: it overlaps another, or there are too many.
func (c *coverage) add(off, n uint64) bool {
	i, _ := slices.BinarySearchFunc(c.parts, off, func(s span, off uint64) int {
		if s.to < off {
			return -1
		}
		return 1
	})
	// parts[i] is the first that ends at off or behind it.
	s := span{off, off + n}
	j := i
	if j < len(c.parts) && c.parts[j].to == off {
		s.from = c.parts[j].from
		j++
	}
	if j < len(c.parts) {
		if c.parts[j].from < off+n {
			return false
		}
		if c.parts[j].from == off+n {
			s.to = c.parts[j].to
			j++
		}
	}
	if len(c.parts) >= maxSpans && i == j {
		return false
	}
	c.parts = slices.Replace(c.parts, i, j, s)
	c.total += n
	return true
}
