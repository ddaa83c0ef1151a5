package server

import (
	"context"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// op is a request that is executed in pieces.
type op struct {
	pieces int // in all
	mu     sync.Mutex
	done   int
	errno  wire.Errno // the first one
}

// finish records a piece and reports whether it was the last, and then the result.
func (o *op) finish(errno wire.Errno) (last bool, result wire.Errno) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.errno == 0 {
		o.errno = errno
	}
	o.done++
	return o.done == o.pieces, o.errno
}

// job is a request, or a piece of one, for a worker.
type job struct {
	req    wire.Request
	op     *op    // nil: the whole request
	at     uint64 // where the piece begins in the request
	n      int    // bytes of the buffer that it needs
	buf    []byte // the payload of a write
	shared bool   // n counts against the room of all connections
	held   bool   // n is counted as in flight
	ids    []metaContext
}

var jobPool = sync.Pool{New: func() any { return new(job) }}

func (c *conn) newJob(req *wire.Request) *job {
	j := jobPool.Get().(*job)
	*j = job{req: *req}
	return j
}

// reserve waits until the buffer of j may be had.
func (c *conn) reserve(j *job) error {
	if j.held || j.shared || j.n == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.inFlight+j.n > int(c.srv.inFlight.Load()) && c.broken == nil {
		if !c.own.empty() {
			c.mu.Unlock()
			c.flushOwn()
			c.mu.Lock()
			continue
		}
		c.cond.Wait()
	}
	if c.broken != nil {
		return c.broken
	}
	c.inFlight += j.n
	j.held = true
	return nil
}

// dispatch hands j to a worker.
func (c *conn) dispatch(j *job) error {
	if err := c.reserve(j); err != nil {
		return err
	}
	c.mu.Lock()
	for len(c.queue) >= requestQueue && c.broken == nil {
		if !c.own.empty() {
			// What waits for the leader must not wait for workers.
			c.mu.Unlock()
			c.flushOwn()
			c.mu.Lock()
			continue
		}
		c.cond.Wait()
	}
	defer c.mu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	c.queue = append(c.queue, j)
	if len(c.queue) > c.idle && c.workers < c.srv.cfg.Workers {
		c.workers++
		c.wg.Add(1)
		go c.work()
	} else {
		c.more.Signal()
	}
	return nil
}

func (c *conn) work() {
	defer c.wg.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.queue) == 0 {
			if c.ended {
				return
			}
			c.idle++
			c.more.Wait()
			c.idle--
		}
		j := c.queue[0]
		n := copy(c.queue, c.queue[1:])
		c.queue[n] = nil
		c.queue = c.queue[:n]
		if n == requestQueue-1 {
			c.cond.Broadcast()
		}
		c.mu.Unlock()
		c.execute(j)
		c.mu.Lock()
	}
}

// execute does j and queues its reply.
func (c *conn) execute(j *job) {
	switch j.req.Type {
	case wire.CmdRead:
		c.executeRead(j)
	case wire.CmdBlockStatus:
		c.executeStatus(j)
	default:
		errno := c.executeOther(j)
		last := true
		if j.op != nil {
			last, errno = j.op.finish(errno)
			if last && errno == 0 && j.req.Flags&wire.CmdFlagFUA != 0 {
				errno = wire.ErrnoOf(c.writer.Flush(c.ctx))
			}
		}
		c.post(func(r *replies) {
			if j.held {
				c.inFlight -= j.n
				c.cond.Broadcast()
			}
			if last {
				c.addDone(r, &j.req, errno)
			}
		})
	}
	jobPool.Put(j)
}

func (c *conn) executeRead(j *job) {
	off := j.req.Offset + j.at
	start := time.Now()
	p, fromFile := c.fileRange(&j.req, int64(off), j.n)
	var errno wire.Errno
	if !fromFile {
		p.buf = bufpool.Get(j.n)
		p.data = p.buf
		errno = wire.ErrnoOf(c.dev.ReadAt(c.ctx, p.buf, int64(off)))
	}
	c.pace.took(time.Since(start), j.n)
	var holes []span
	if !fromFile && errno == 0 {
		holes = c.holes(&j.req, off, p.data)
	}
	if j.shared {
		p.shared = j.n
	} else {
		p.release = j.n
	}
	c.post(func(r *replies) {
		done := true
		if j.op != nil {
			// Within the queue's lock, so that the last chunk is the last one sent.
			done, _ = j.op.finish(errno)
		}
		switch {
		case fromFile:
			c.addReadHead(r, &j.req, off, j.n, done)
			r.addBuffer(p)
			return
		case errno == 0:
			c.addRead(r, &j.req, off, p, holes, done)
			return
		case c.mode == modeSimple:
			c.addDone(r, &j.req, errno)
		case j.op != nil:
			c.addError(r, &j.req, errno, int64(off), done)
		default:
			c.addError(r, &j.req, errno, -1, true)
		}
		p.data = nil
		r.addBuffer(p)
	})
}

// executeOther does all that neither reads nor asks for status.
func (c *conn) executeOther(j *job) wire.Errno {
	req := &j.req
	off, n := int64(req.Offset), int64(req.Length)
	fua := req.Flags&wire.CmdFlagFUA != 0
	var err error
	switch req.Type {
	case wire.CmdWrite:
		start := time.Now()
		err = c.writer.WriteAt(c.ctx, j.buf, off+int64(j.at), fua && j.op == nil)
		if !fua {
			c.pace.took(time.Since(start), j.n)
		}
		bufpool.Put(j.buf)
		return wire.ErrnoOf(err)
	case wire.CmdFlush:
		if c.writer != nil {
			err = c.writer.Flush(c.ctx)
		}
		return wire.ErrnoOf(err)
	case wire.CmdCache:
		err = c.inPieces(off, n, c.dev.(Cacher).Cache)
	case wire.CmdTrim:
		err = c.inPieces(off, n, c.dev.(Trimmer).Trim)
	case wire.CmdWriteZeroes:
		var flags ZeroFlags
		if req.Flags&wire.CmdFlagNoHole != 0 {
			flags |= ZeroNoHole
		}
		if req.Flags&wire.CmdFlagFastZero != 0 {
			flags |= ZeroFast
		}
		z := c.dev.(ZeroWriter)
		err = c.inPieces(off, n, func(ctx context.Context, off, n int64) error {
			return z.WriteZeroes(ctx, off, n, flags)
		})
	}
	if err == nil && fua && req.Type != wire.CmdCache {
		err = c.writer.Flush(c.ctx)
	}
	return wire.ErrnoOf(err)
}

// effectPiece bounds one call for a command whose length is that of its effect, so
// that the end of the connection is noticed in between.
const effectPiece = 1 << 30

func (c *conn) inPieces(off, n int64, do func(ctx context.Context, off, n int64) error) error {
	for n > 0 {
		m := min(n, effectPiece)
		if err := do(c.ctx, off, m); err != nil {
			return err
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}
