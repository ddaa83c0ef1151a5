package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/internal/trace"
	"github.com/cowl-disk/cowl/nbd/wire"
)

const (
	defaultInFlight = 64
	// smallPayload is the largest payload that is copied to the queue, so that the caller's buffer is
	// not needed while it is sent.
	smallPayload = 16 << 10
	// graceful bounds the wait for a transfer to or from the buffer of a request
	// that was cancelled, and for the last messages of a connection.
	graceful = 400 * time.Millisecond
)

// Conn is a connection in the transmission phase. Its methods may be called from
// several goroutines.
type Conn struct {
	nc   net.Conn
	br   *bufio.Reader
	info Info
	ids  map[uint32]string // contexts

	slots chan *call    // those not in use
	gone  chan struct{} // closed when the connection is

	mu      sync.Mutex
	cond    sync.Cond // a transfer has ended
	err     error     // why the connection is gone
	calls   []*call
	out     [2]outgoing // one is filled while the other is sent
	filling int
	writing bool
	closing bool
}

// outgoing is what is to be sent.
type outgoing struct {
	arena []byte
	parts []outPart
	segs  net.Buffers
	room  [][]byte
}

// outPart is a range of the arena, or the payload of a call.
type outPart struct {
	from, to int
	call     *call
	data     []byte
}

// call is a request and its outcome. The fields are guarded by Conn.mu
// except where said.
type call struct {
	index  uint32
	gen    uint32        // distinguishes uses of the slot
	done   chan struct{} // takes one value per use
	active bool          // a reply is expected
	// sending and receiving: buf is in use by the connection.
	sending, receiving bool
	abandoned          bool // no caller waits
	ready              bool // done is signalled when no transfer is left

	req     wire.Request
	buf     []byte // of a read: where the data go
	ask     statusAsk
	extents []wire.Extent
	err     error
	failure *ServerError

	// Of the goroutine that receives alone.
	seen     coverage
	contexts map[uint32]bool
}

// statusAsk is what a block status request asks for.
type statusAsk struct {
	context uint32
	length  uint64
}

func (c *call) cookie() uint64 { return uint64(c.gen)<<32 | uint64(c.index) }

func newConn(nc net.Conn, br *bufio.Reader, info Info, ids map[uint32]string, inFlight int) *Conn {
	if inFlight <= 0 {
		inFlight = defaultInFlight
	}
	c := &Conn{nc: nc, br: br, info: info, ids: ids, gone: make(chan struct{}), slots: make(chan *call, inFlight)}
	c.cond.L = &c.mu
	for i := range inFlight {
		k := &call{index: uint32(i), done: make(chan struct{}, 1)}
		c.calls = append(c.calls, k)
		c.slots <- k
	}
	return c
}

// Info returns the server's description of the export.
func (c *Conn) Info() Info { return c.info }

// Size returns the size of the export in bytes.
func (c *Conn) Size() int64 { return c.info.Size }

// Gone is closed when the connection is lost or closed.
func (c *Conn) Gone() <-chan struct{} { return c.gone }

// Err says why the connection is gone, nil if it is not.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the session with the server and closes the connection. Requests under way
// fail.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil
	}
	c.closing = true
	c.nc.SetWriteDeadline(time.Now().Add(graceful))
	c.enqueue(&call{req: wire.Request{Type: wire.CmdDisc}}, nil)
	c.mu.Unlock()
	c.flush()
	c.mu.Lock()
	for c.writing && c.err == nil {
		c.cond.Wait()
	}
	c.mu.Unlock()
	c.fail(errors.New("it was closed"))
	return nil
}

// do sends a request and waits for its reply. payload is what is sent with it, and
// buf where the data of a read go; they are not used any more after the return. The
// caller gives the call back to slots.
func (c *Conn) do(ctx context.Context, req wire.Request, payload, buf []byte, ask statusAsk) (*call, error) {
	trace.NBDSendRequest.Log(int64(req.Offset), int64(req.Length), int64(req.Flags), int64(req.Type))
	var k *call
	select {
	case k = <-c.slots:
	default:
		select {
		case k = <-c.slots:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.gone:
			return nil, c.Err()
		}
	}
	if err := ctx.Err(); err != nil {
		c.slots <- k
		return nil, err
	}
	c.mu.Lock()
	if c.err != nil || c.closing {
		err := c.err
		c.mu.Unlock()
		c.slots <- k
		if err == nil {
			err = fmt.Errorf("%w: it was closed", ErrLost)
		}
		return nil, err
	}
	k.gen++
	k.active, k.abandoned, k.ready = true, false, false
	k.err, k.failure, k.extents, k.contexts = nil, nil, nil, nil
	k.seen.reset()
	k.req, k.buf, k.ask = req, buf, ask
	k.req.Cookie = k.cookie()
	c.enqueue(k, payload)
	c.mu.Unlock()
	c.flush()
	select {
	case <-k.done:
		return k, k.result()
	case <-ctx.Done():
	}
	return c.abandon(ctx, k)
}

// result is the outcome of a finished call.
func (c *call) result() error {
	if c.err != nil {
		return c.err
	}
	if c.failure != nil {
		return c.failure
	}
	return nil
}

// abandon leaves a call whose context has ended. Its slot is free again when its
// reply has come.
func (c *Conn) abandon(ctx context.Context, k *call) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.sending || k.receiving {
		t := time.AfterFunc(graceful, func() {
			c.fail(errors.New("a request was cancelled while its data were under way"))
		})
		for k.sending || k.receiving {
			c.cond.Wait()
		}
		t.Stop()
	}
	if !k.active {
		// It ended meanwhile.
		<-k.done
		return k, k.result()
	}
	k.abandoned, k.buf = true, nil
	return nil, ctx.Err()
}

// release gives back a call that has ended.
func (c *Conn) release(k *call) {
	if k != nil {
		k.buf = nil
		c.slots <- k
	}
}

// enqueue appends a request to what is sent next. c.mu is held.
func (c *Conn) enqueue(k *call, payload []byte) {
	o := &c.out[c.filling]
	if c.info.Mode == ModeExtended {
		k.req.PutExtended(o.grow(wire.ExtendedRequestLen))
	} else {
		k.req.Put(o.grow(wire.RequestLen))
	}
	if len(payload) <= smallPayload {
		if len(payload) > 0 {
			copy(o.grow(len(payload)), payload)
		}
		return
	}
	k.sending = true
	o.parts = append(o.parts, outPart{call: k, data: payload})
}

func (o *outgoing) grow(n int) []byte {
	from := len(o.arena)
	if from+n > cap(o.arena) {
		bigger := make([]byte, from, max(2*cap(o.arena), from+n, 4096))
		copy(bigger, o.arena)
		o.arena = bigger
	}
	o.arena = o.arena[:from+n]
	if k := len(o.parts); k > 0 && o.parts[k-1].call == nil && o.parts[k-1].to == from {
		o.parts[k-1].to = from + n
	} else {
		o.parts = append(o.parts, outPart{from: from, to: from + n})
	}
	return o.arena[from:]
}

// flush sends what is queued, unless another goroutine is sending: that one sends it.
func (c *Conn) flush() {
	c.mu.Lock()
	if c.writing {
		c.mu.Unlock()
		return
	}
	c.writing = true
	var err error
	for err == nil && c.err == nil && len(c.out[c.filling].parts) > 0 {
		o := &c.out[c.filling]
		c.filling ^= 1
		c.mu.Unlock()
		err = o.send(c.nc)
		c.mu.Lock()
		c.sent(o)
	}
	c.writing = false
	if c.err != nil {
		c.sent(&c.out[c.filling])
	}
	c.cond.Broadcast()
	c.mu.Unlock()
	if err != nil {
		c.fail(err)
	}
}

func (o *outgoing) send(nc net.Conn) error {
	if len(o.parts) == 1 {
		_, err := nc.Write(o.arena)
		return err
	}
	segs := o.room[:0]
	for _, p := range o.parts {
		if p.call != nil {
			segs = append(segs, p.data)
		} else {
			segs = append(segs, o.arena[p.from:p.to])
		}
	}
	o.room, o.segs = segs, segs
	_, err := o.segs.WriteTo(nc)
	clear(o.room)
	return err
}

// sent drops what was sent, or never will be. c.mu is held.
func (c *Conn) sent(o *outgoing) {
	for i := range o.parts {
		if k := o.parts[i].call; k != nil {
			k.sending = false
			c.signal(k)
		}
		o.parts[i] = outPart{}
	}
	o.arena, o.parts = o.arena[:0], o.parts[:0]
	c.cond.Broadcast()
}

// finish ends a call. c.mu is held.
func (c *Conn) finish(k *call, err error) {
	if !k.active {
		return
	}
	k.active, k.ready = false, true
	if err != nil {
		k.err = err
	}
	c.signal(k)
}

// signal wakes the caller of a call that has ended, once its buffers are
// not in use any more. c.mu is held.
func (c *Conn) signal(k *call) {
	if !k.ready || k.sending || k.receiving {
		return
	}
	k.ready = false
	if k.abandoned {
		c.slots <- k // has room for all
		return
	}
	k.done <- struct{}{}
}

// fail ends the connection.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("%w: %w", ErrLost, err)
	c.nc.Close()
	close(c.gone)
	if !c.writing {
		c.sent(&c.out[c.filling])
	}
	for _, k := range c.calls {
		c.finish(k, c.err)
	}
	c.cond.Broadcast()
}
