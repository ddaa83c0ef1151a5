package server

import (
	"encoding/binary"
	"time"

	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/trace"
	"github.com/cowl-disk/cowl/nbd/wire"
)

func putUint64(b []byte, v uint64) { binary.BigEndian.PutUint64(b, v) }

// known are the flags that each command may have.
var known = [...]wire.CmdFlags{
	wire.CmdRead:        wire.CmdFlagDF | wire.CmdFlagFUA,
	wire.CmdWrite:       wire.CmdFlagFUA | wire.CmdFlagPayloadLen,
	wire.CmdFlush:       wire.CmdFlagFUA,
	wire.CmdTrim:        wire.CmdFlagFUA,
	wire.CmdCache:       wire.CmdFlagFUA,
	wire.CmdWriteZeroes: wire.CmdFlagFUA | wire.CmdFlagNoHole | wire.CmdFlagFastZero,
	wire.CmdBlockStatus: wire.CmdFlagFUA | wire.CmdFlagReqOne | wire.CmdFlagPayloadLen,
}

// check says what is wrong with a request, 0 if nothing is.
func (c *conn) check(req *wire.Request) wire.Errno {
	if int(req.Type) >= len(known) || req.Type == wire.CmdDisc {
		return wire.EINVAL
	}
	writes := req.Type == wire.CmdWrite || req.Type == wire.CmdTrim || req.Type == wire.CmdWriteZeroes
	if writes && c.writer == nil {
		return wire.EPERM
	}
	flags := known[req.Type]
	if c.mode < modeStructured {
		flags &^= wire.CmdFlagDF
	}
	if c.mode < modeExtended {
		flags &^= wire.CmdFlagPayloadLen
	}
	if req.Flags&^flags != 0 {
		return wire.EINVAL
	}
	if req.Type == wire.CmdFlush {
		if req.Offset != 0 || req.Length != 0 {
			return wire.EINVAL
		}
		return 0
	}
	if req.Type == wire.CmdBlockStatus && req.Flags&wire.CmdFlagPayloadLen != 0 {
		return 0 // the length is that of the payload
	}
	if req.Offset > c.size || req.Length > c.size-req.Offset {
		if req.Type == wire.CmdWrite || req.Type == wire.CmdWriteZeroes {
			return wire.ENOSPC
		}
		return wire.EINVAL
	}
	if req.Type == wire.CmdRead && req.Length > wire.MaxPayload {
		return wire.EINVAL
	}
	if m := uint64(c.limits.Min); m > 1 && (req.Offset%m != 0 || req.Length%m != 0) {
		return wire.EINVAL
	}
	var able bool
	switch req.Type {
	case wire.CmdTrim:
		_, able = c.dev.(Trimmer)
	case wire.CmdWriteZeroes:
		_, able = c.dev.(ZeroWriter)
	case wire.CmdCache:
		_, able = c.dev.(Cacher)
	case wire.CmdBlockStatus:
		able = len(c.meta) > 0 && req.Length > 0
	default:
		able = true
	}
	if !able {
		return wire.EINVAL
	}
	return 0
}

// request deals with one request: its header is taken from the buffer, its payload
// not yet.
func (c *conn) request(req *wire.Request) error {
	trace.NBDReceiveRequest.Log(int64(req.Flags), int64(req.Type), int64(req.Offset), int64(req.Length))
	if req.Type == wire.CmdDisc {
		return errDisc
	}
	// A write has a payload whether it says so or not: the specification wants the
	// flag with extended headers, and not all clients set it.
	payload := uint64(0)
	if req.Type == wire.CmdWrite || c.mode == modeExtended && req.Flags&wire.CmdFlagPayloadLen != 0 {
		payload = req.Length
		if payload > wire.MaxPayload {
			return violation("payload of %d bytes", payload)
		}
	}
	errno := c.check(req)
	if errno != 0 {
		if err := c.discard(int64(payload)); err != nil {
			return err
		}
		return c.answer(req, errno)
	}
	switch {
	case req.Type == wire.CmdRead:
		return c.read(req)
	case req.Type == wire.CmdWrite:
		return c.write(req)
	case req.Type == wire.CmdBlockStatus:
		return c.status(req, int(payload))
	}
	return c.dispatch(c.newJob(req))
}

// answer gives the leader's reply without payload.
func (c *conn) answer(req *wire.Request, errno wire.Errno) error {
	c.addDone(&c.own, req, errno)
	return c.ownFull()
}

// ownFull sends the leader's replies if there are many.
func (c *conn) ownFull() error {
	if len(c.own.arena) > replyBuffer-inPlace-128 {
		return c.flushOwn()
	}
	return nil
}

// discard reads over a payload.
func (c *conn) discard(n int64) error {
	for n > 0 {
		if c.in.buffered() == 0 {
			if err := c.flushOwn(); err != nil {
				return err
			}
			if err := c.in.fill(1); err != nil {
				return err
			}
		}
		n -= int64(len(c.in.take(int(min(n, int64(c.in.buffered()))))))
	}
	return nil
}

// read executes or hands on a read.
func (c *conn) read(req *wire.Request) error {
	n := int(req.Length)
	switch {
	case n == 0:
		return c.answer(req, 0)
	case n <= inPlace && c.fast():
		return c.readInPlace(req, n)
	case n <= piece:
		if c.fast() {
			return c.readNow(req, n)
		}
		j := c.newJob(req)
		j.n = n
		return c.dispatch(j)
	case c.mode == modeSimple || req.Flags&wire.CmdFlagDF != 0:
		return c.readContiguous(req, n)
	}
	// In pieces, each of which is a chunk of the reply.
	o := &op{pieces: (n + piece - 1) / piece}
	for off := 0; off < n; off += piece {
		j := c.newJob(req)
		j.op, j.at, j.n = o, uint64(off), min(piece, n-off)
		if err := c.dispatch(j); err != nil {
			return err
		}
	}
	return nil
}

// readInPlace reads from a fast device to where the reply is gathered.
func (c *conn) readInPlace(req *wire.Request, n int) error {
	before := len(c.own.arena)
	c.addReadHead(&c.own, req, req.Offset, n, true)
	p := c.own.grow(n)
	start := time.Now()
	token := c.enter(start, before)
	err := c.dev.ReadAt(c.ctx, p, int64(req.Offset))
	c.pace.took(time.Since(start), n)
	var holes []span
	if err == nil {
		holes = c.holes(req, req.Offset, p)
	}
	var sparse part // p, if it is sent in other parts
	if len(holes) > 0 {
		sparse.buf = bufpool.Get(n)
		sparse.data = sparse.buf[:copy(sparse.buf, p)]
	}
	if !c.leave(token) {
		c.post(func(r *replies) {
			switch {
			case err != nil:
				c.addDone(r, req, wire.ErrnoOf(err))
			case len(holes) > 0:
				c.addRead(r, req, req.Offset, sparse, holes, true)
			default:
				c.addReadHead(r, req, req.Offset, n, true)
				copy(r.grow(n), p)
			}
		})
		return errDeposed
	}
	if len(holes) > 0 {
		c.own.shrink(len(c.own.arena) - before)
		c.addRead(&c.own, req, req.Offset, sparse, holes, true)
		return c.ownFull()
	}
	if err != nil {
		c.own.shrink(len(c.own.arena) - before)
		return c.answer(req, wire.ErrnoOf(err))
	}
	return c.ownFull()
}

// readNow reads from a fast device to a buffer, and sends it.
func (c *conn) readNow(req *wire.Request, n int) error {
	if p, ok := c.fileRange(req, int64(req.Offset), n); ok {
		c.addReadHead(&c.own, req, req.Offset, n, true)
		c.own.addBuffer(p)
		return c.flushOwn()
	}
	buf := bufpool.Get(n)
	start := time.Now()
	token := c.enter(start, len(c.own.arena))
	err := c.dev.ReadAt(c.ctx, buf, int64(req.Offset))
	c.pace.took(time.Since(start), n)
	var holes []span
	if err == nil {
		holes = c.holes(req, req.Offset, buf)
	}
	if !c.leave(token) {
		c.post(func(r *replies) {
			if err != nil {
				c.addDone(r, req, wire.ErrnoOf(err))
				return
			}
			c.addRead(r, req, req.Offset, part{buf: buf, data: buf}, holes, true)
		})
		return errDeposed
	}
	if err != nil {
		bufpool.Put(buf)
		return c.answer(req, wire.ErrnoOf(err))
	}
	c.addRead(&c.own, req, req.Offset, part{buf: buf, data: buf}, holes, true)
	return c.flushOwn()
}

// readContiguous reads more than a piece for a reply in one part.
func (c *conn) readContiguous(req *wire.Request, n int) error {
	if c.srv.shared.Add(int64(n)) <= sharedRoom {
		j := c.newJob(req)
		j.n, j.shared = n, true
		return c.dispatch(j)
	}
	c.srv.shared.Add(-int64(n))
	if err := c.flushOwn(); err != nil {
		return err
	}
	buf := bufpool.Get(piece)
	defer bufpool.Put(buf)
	if err := c.dev.ReadAt(c.ctx, buf, int64(req.Offset)); err != nil {
		return c.answer(req, wire.ErrnoOf(err))
	}
	if err := c.acquire(); err != nil {
		return err
	}
	var head replies
	c.addReadHead(&head, req, req.Offset, n, true)
	err := c.send(&head)
	for off := 0; off < n && err == nil; off += piece {
		p := buf[:min(piece, n-off)]
		if off > 0 {
			// The header says success: an error can only end the connection.
			err = c.dev.ReadAt(c.ctx, p, int64(req.Offset)+int64(off))
		}
		if err == nil {
			_, err = c.nc.Write(p)
		}
	}
	return c.yield(err)
}

// write executes or hands on a write, whose payload it reads.
func (c *conn) write(req *wire.Request) error {
	n := int(req.Length)
	if n == 0 {
		return c.answer(req, 0)
	}
	fua := req.Flags&wire.CmdFlagFUA != 0
	if n <= inPlace && c.fast() && !fua {
		if c.in.buffered() < n {
			if err := c.flushOwn(); err != nil {
				return err
			}
			if err := c.in.fill(n); err != nil {
				return err
			}
		}
		p := c.in.take(n)
		start := time.Now()
		token := c.enter(start, len(c.own.arena))
		err := c.writer.WriteAt(c.ctx, p, int64(req.Offset), false)
		c.pace.took(time.Since(start), n)
		if !c.leave(token) {
			c.post(func(r *replies) { c.addDone(r, req, wire.ErrnoOf(err)) })
			return errDeposed
		}
		return c.answer(req, wire.ErrnoOf(err))
	}
	var o *op
	if n > piece {
		o = &op{pieces: (n + piece - 1) / piece}
	}
	return c.payload(req, o, 0)
}

// payload reads the payload of a write from its byte off on, in pieces, and executes
// them or hands them on. Where the device is fast they are executed one after the
// other: file systems let one write at a time into a file, and a goroutine that waits for
// that burns a processor that the client could use.
func (c *conn) payload(req *wire.Request, o *op, off int) error {
	n, fua := int(req.Length), req.Flags&wire.CmdFlagFUA != 0
	for ; off < n; off += piece {
		j := c.newJob(req)
		j.op, j.at, j.n = o, uint64(off), min(piece, n-off)
		if err := c.reserve(j); err != nil {
			return err
		}
		j.buf = bufpool.Get(j.n)
		if c.in.buffered() < j.n {
			if err := c.flushOwn(); err != nil {
				return err
			}
		}
		if err := c.in.readFull(j.buf); err != nil {
			bufpool.Put(j.buf)
			return err
		}
		if c.fast() && !fua {
			c.inline.rest = unfinished{*req, o, off + piece}
			token := c.enter(time.Now(), len(c.own.arena))
			c.execute(j)
			if !c.leave(token) {
				return errDeposed
			}
			c.inline.rest = unfinished{}
			continue
		}
		if err := c.dispatch(j); err != nil {
			return err
		}
	}
	return nil
}
