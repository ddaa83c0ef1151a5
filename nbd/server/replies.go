package server

import (
	"net"

	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/trace"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// replies collects what is to be sent. Small parts are next to each other in the
// arena, larger ones are referred to.
type replies struct {
	arena []byte
	parts []part
	segs  net.Buffers // what is being sent
	room  [][]byte    // of segs
}

// part is a range of the arena, a buffer, or a range of a file.
type part struct {
	from, to int
	buf      []byte // to be given back when sent
	data     []byte // of buf, or of that of a later part
	file     fileExtent
	release  int // bytes that no longer are in flight when sent
	shared   int // same, of the room of all connections
}

func (p *part) inArena() bool { return p.buf == nil && p.data == nil && p.file.f == nil }

func (r *replies) empty() bool { return len(r.arena) == 0 && len(r.parts) == 0 }

// grow appends n bytes to the arena, which belong to the last part. They are valid
// until the next call.
func (r *replies) grow(n int) []byte {
	from := len(r.arena)
	if from+n > cap(r.arena) {
		bigger := make([]byte, from, max(2*cap(r.arena), from+n, 4096))
		copy(bigger, r.arena)
		r.arena = bigger
	}
	r.arena = r.arena[:from+n]
	if k := len(r.parts); k > 0 && r.parts[k-1].inArena() && r.parts[k-1].to == from {
		r.parts[k-1].to = from + n
	} else {
		r.parts = append(r.parts, part{from: from, to: from + n})
	}
	return r.arena[from:]
}

// shrink takes back the last n bytes that grow has appended.
func (r *replies) shrink(n int) {
	r.arena = r.arena[:len(r.arena)-n]
	k := len(r.parts) - 1
	if r.parts[k].to -= n; r.parts[k].to == r.parts[k].from {
		r.parts = r.parts[:k]
	}
}

// free releases the buffers and everything queued. It returns what is no longer
// in flight.
func (r *replies) free() (release, shared int) {
	for i := range r.parts {
		p := &r.parts[i]
		if p.buf != nil {
			bufpool.Put(p.buf)
		}
		release += p.release
		shared += p.shared
		*p = part{}
	}
	r.arena, r.parts = r.arena[:0], r.parts[:0]
	return release, shared
}

// send writes r to the connection. The caller has the right to write.
func (c *conn) send(r *replies) error {
	if len(r.parts) == 1 && r.parts[0].inArena() {
		_, err := c.nc.Write(r.arena)
		return err
	}
	if c.tls != nil {
		return c.sendTLS(r)
	}
	segs := r.room[:0]
	for i := range r.parts {
		switch p := &r.parts[i]; {
		case p.file.f != nil:
			if err := c.sendSegs(r, segs); err != nil {
				return err
			}
			segs = r.room[:0]
			if err := c.sendExtent(p.file); err != nil {
				return err
			}
		case p.inArena():
			segs = append(segs, r.arena[p.from:p.to])
		default:
			segs = append(segs, p.data)
		}
	}
	return c.sendSegs(r, segs)
}

// sendSegs writes segs, which become the room of r.
func (c *conn) sendSegs(r *replies, segs [][]byte) error {
	if len(segs) == 0 {
		return nil
	}
	r.room, r.segs = segs, segs // WriteTo consumes segs
	_, err := r.segs.WriteTo(c.nc)
	clear(r.room)
	return err
}

// sendTLS writes headers together with what follows them: each call makes a record
// of its own.
func (c *conn) sendTLS(r *replies) error {
	buf := bufpool.Get(16 << 10)
	defer bufpool.Put(buf)
	n := 0
	for i := range r.parts {
		p := &r.parts[i]
		data := p.data
		if p.inArena() {
			data = r.arena[p.from:p.to]
		}
		for len(data) > 0 {
			if n == 0 && len(data) >= len(buf) {
				if _, err := c.nc.Write(data); err != nil {
					return err
				}
				break
			}
			m := copy(buf[n:], data)
			n, data = n+m, data[m:]
			if n == len(buf) {
				if _, err := c.nc.Write(buf); err != nil {
					return err
				}
				n = 0
			}
		}
	}
	_, err := c.nc.Write(buf[:n])
	return err
}

// acquire waits for the right to write. It fails when writing has failed.
func (c *conn) acquire() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing && c.broken == nil {
		c.cond.Wait()
	}
	if c.broken != nil {
		return c.broken
	}
	c.writing = true
	return nil
}

// yield gives up the right to write, after sending what workers have left.
func (c *conn) yield(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for err == nil && c.broken == nil && !c.gathered[c.filling].empty() {
		out := &c.gathered[c.filling]
		c.filling ^= 1
		c.mu.Unlock()
		err = c.send(out)
		c.mu.Lock()
		c.forget(out)
	}
	c.writing = false
	if err != nil && c.broken == nil {
		c.breakOff(err)
	}
	c.cond.Broadcast()
	return c.broken
}

// forget gives back what replies hold that are sent, or never will be. c.mu is held.
func (c *conn) forget(r *replies) {
	release, shared := r.free()
	c.inFlight -= release
	c.srv.shared.Add(-int64(shared))
	c.cond.Broadcast()
}

// breakOff gives up after a failed write. c.mu is held.
func (c *conn) breakOff(err error) {
	c.broken = err
	c.forget(&c.gathered[c.filling])
	c.cancel()
	c.raw.Close()
}

// flushOwn sends the replies of the leader.
func (c *conn) flushOwn() error {
	if c.own.empty() {
		return nil
	}
	if err := c.acquire(); err != nil {
		return err
	}
	err := c.send(&c.own)
	c.own.free()
	return c.yield(err)
}

// post queues replies of a worker, as add makes them, and sends them unless
// another goroutine is sending: that one sends it.
func (c *conn) post(add func(*replies)) {
	c.mu.Lock()
	add(&c.gathered[c.filling])
	if c.broken != nil {
		c.forget(&c.gathered[c.filling])
	}
	if c.broken != nil || c.writing {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	c.yield(nil)
}

// addDone appends a reply without payload: success, or an error.
func (c *conn) addDone(r *replies, req *wire.Request, errno wire.Errno) {
	trace.NBDCoSendSimpleReply.Log(int64(req.Type), int64(errno))
	switch {
	case c.mode == modeSimple || c.mode == modeStructured && errno == 0 && req.Type != wire.CmdRead && req.Type != wire.CmdBlockStatus:
		wire.PutSimpleReply(r.grow(wire.SimpleReplyLen), req.Cookie, errno)
	case errno == 0:
		c.addChunk(r, req, wire.ChunkNone, true, 0)
	default:
		c.addError(r, req, errno, -1, true)
	}
}

// addError appends an error chunk.
func (c *conn) addError(r *replies, req *wire.Request, errno wire.Errno, off int64, done bool) {
	typ := wire.ChunkError
	if off >= 0 {
		typ = wire.ChunkErrorOffset
	}
	var room [128]byte
	data := wire.AppendError(room[:0], errno, req.Type.String()+" failed: "+errno.Text(), off)
	c.addChunk(r, req, typ, done, len(data))
	copy(r.grow(len(data)), data)
}

// addChunk appends the header of a chunk with n bytes of payload.
func (c *conn) addChunk(r *replies, req *wire.Request, typ wire.ChunkType, done bool, n int) {
	ch := wire.Chunk{Type: typ, Cookie: req.Cookie, Offset: req.Offset, Length: uint64(n)}
	if done {
		ch.Flags = wire.ReplyFlagDone
	}
	if c.mode == modeExtended {
		ch.PutExtended(r.grow(wire.ExtendedReplyLen))
	} else {
		ch.PutStructured(r.grow(wire.StructuredReplyLen))
	}
}

// addReadHead appends what precedes n bytes of data from offset off.
func (c *conn) addReadHead(r *replies, req *wire.Request, off uint64, n int, done bool) {
	if c.mode == modeSimple {
		wire.PutSimpleReply(r.grow(wire.SimpleReplyLen), req.Cookie, 0)
		return
	}
	c.addChunk(r, req, wire.ChunkOffsetData, done, 8+n)
	putUint64(r.grow(8), off)
}

// addHole appends a chunk that says that n bytes at off are zeroes.
func (c *conn) addHole(r *replies, req *wire.Request, off uint64, n int, done bool) {
	c.addChunk(r, req, wire.ChunkOffsetHole, done, wire.OffsetHoleLen)
	wire.PutOffsetHole(r.grow(wire.OffsetHoleLen), off, uint32(n))
}

// addBuffer appends a part that is outside the arena; a buffer is given back when
// it is sent.
func (r *replies) addBuffer(p part) { r.parts = append(r.parts, p) }
