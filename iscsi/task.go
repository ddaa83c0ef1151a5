package iscsi

import (
	"context"
	"encoding/binary"
)

// task is a command under way. What is in it belongs to the receiver, under conn.mu,
// until done is closed.
type task struct {
	cmd     *Command // nil: nobody waits any more
	lun     uint64
	probe   bool
	tag     uint32
	sn      uint32 // CmdSN
	abort   uint32 // the tag of the request to abort it
	r2t     chan transfer
	done    chan struct{}
	got     int  // bytes of Command.In so far
	filling bool // the receiver writes into Command.In
	err     error
}

// transfer is data that the target asks for.
type transfer struct {
	tag         uint32
	offset, end int
}

// do sends a command and waits for its end. It does not try again.
func (c *conn) do(ctx context.Context, cmd *Command) error {
	if err := c.lockForCommand(ctx); err != nil {
		return err
	}
	t, err := c.begin(ctx, cmd)
	c.unlock()
	if err != nil {
		return err
	}
	for {
		select {
		case <-t.done:
			cmd.N = t.got
			return t.err
		case r := <-t.r2t:
			if err := c.sendData(ctx, t, r); err != nil {
				c.abandon(t)
				return err
			}
		case <-c.dead:
			<-c.received // it may fill the buffer
			select {
			case <-t.done:
				cmd.N = t.got
				return t.err
			default:
				return c.reason()
			}
		case <-ctx.Done():
			c.abandon(t)
			return context.Cause(ctx)
		}
	}
}

// begin registers a command and sends it, with the data that the target takes unasked.
// It is called with sendLock.
func (c *conn) begin(ctx context.Context, cmd *Command) (*task, error) {
	t := &task{cmd: cmd, lun: cmd.LUN, probe: cmd.probe, sn: c.cmdSN, done: make(chan struct{})}
	if len(cmd.Out) > 0 {
		t.r2t = make(chan transfer, c.p.maxR2T)
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	t.tag = c.nextTag()
	if !t.probe {
		c.progress.Store(now()) // before watch sees a command that waits
	}
	c.tasks[t.tag] = t
	c.mu.Unlock()

	h := header{0: opCommand, 1: flagFinal | attrSimple}
	binary.BigEndian.PutUint64(h[8:], cmd.LUN)
	h.set(16, t.tag)
	h.set(24, c.cmdSN)
	h.set(28, c.statSN.Load())
	copy(h[32:], cmd.CDB[:])
	c.cmdSN++
	unasked, attached := 0, 0
	switch {
	case len(cmd.Out) > 0:
		h[1] |= flagWrite
		h.set(20, uint32(len(cmd.Out)))
		first := min(len(cmd.Out), c.p.firstBurst)
		if c.p.immediateData {
			attached = min(first, c.p.sendSegment)
		}
		unasked = attached
		if !c.p.initialR2T {
			unasked = first
		}
		if unasked > attached {
			h[1] &^= flagFinal
		}
	case len(cmd.In) > 0:
		h[1] |= flagRead
		h.set(20, uint32(len(cmd.In)))
	}
	b := newBatch(1 + c.segments(unasked-attached))
	b.add(&h, cmd.Out[:attached], c.p.digests)
	c.addData(b, t, transfer{noTag, attached, unasked})
	if err := c.write(ctx, b); err != nil {
		<-c.received // it may fill the buffer
		return nil, err
	}
	if !t.probe {
		c.progress.Store(now())
	}
	return t, nil
}

// segments is how many PDUs n bytes take.
func (c *conn) segments(n int) int { return (n + c.p.sendSegment - 1) / c.p.sendSegment }

// addData adds the PDUs of a transfer.
func (c *conn) addData(b *batch, t *task, r transfer) {
	out := t.cmd.Out
	for sn := uint32(0); r.offset < r.end; sn++ {
		n := min(c.p.sendSegment, r.end-r.offset)
		h := header{0: opDataOut}
		if r.offset+n == r.end {
			h[1] = flagFinal
		}
		binary.BigEndian.PutUint64(h[8:], t.lun)
		h.set(16, t.tag)
		h.set(20, r.tag)
		h.set(28, c.statSN.Load())
		h.set(36, sn)
		h.set(40, uint32(r.offset))
		b.add(&h, out[r.offset:r.offset+n], c.p.digests)
		r.offset += n
	}
}

// sendData sends what the target asked for.
func (c *conn) sendData(ctx context.Context, t *task, r transfer) error {
	b := newBatch(c.segments(r.end - r.offset))
	c.addData(b, t, r)
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	if err := c.write(ctx, b); err != nil {
		return err
	}
	c.progress.Store(now())
	return nil
}

// abandon makes the buffers of a command those of the caller again, and asks the target
// to abort it.
func (c *conn) abandon(t *task) {
	c.mu.Lock()
	select {
	case <-t.done:
		c.mu.Unlock()
		return
	default:
	}
	filling := t.filling
	t.cmd = nil
	t.abort = c.nextTag()
	c.abandoned++
	many := c.abandoned > maxAbandoned
	c.mu.Unlock()
	if filling || many {
		c.fail(context.Canceled)
		<-c.received
		return
	}
	h := header{0: opTaskMgmt, 1: flagFinal | 1} // ABORT TASK
	binary.BigEndian.PutUint64(h[8:], t.lun)
	h.set(16, t.abort)
	h.set(20, t.tag)
	h.set(32, t.sn)
	_ = c.queue(&h)
}
