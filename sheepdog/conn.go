package sheepdog

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	readBuffer = 64 << 10
	// maxRefusal bounds the data of an answer that refuses a request: some servers send as
	// much as was asked for.
	maxRefusal = 1 << 25
)

// conn is a connection. It ends with its first error.
type conn struct {
	nc      net.Conn
	sending chan struct{} // holds an element while somebody sends
	timeout time.Duration
	moved   atomic.Int64 // when something was last begun or heard, in ns since start
	dead    chan struct{}
	ended   chan struct{} // closed when the receiver has ended

	mu    sync.Mutex
	calls map[uint32]*call
	id    uint32
	// filling: the data of an answer is being read, whose call is not among the others any more.
	filling bool
	err     error
}

// call is a request under way.
type call struct {
	req  *request // nil: nobody waits any more
	done chan struct{}
	err  error
}

// start is the origin of conn.moved.
var start = time.Now()

func newConn(nc net.Conn, timeout time.Duration) *conn {
	c := &conn{nc: nc, sending: make(chan struct{}, 1), timeout: timeout, dead: make(chan struct{}), ended: make(chan struct{}), calls: map[uint32]*call{}}
	go c.receive()
	if timeout > 0 {
		go c.watch()
	}
	return c
}

func (c *conn) touch() { c.moved.Store(int64(time.Since(start))) }

// fail ends the connection. The first error counts.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = lost(err)
		close(c.dead)
		c.nc.Close()
	}
}

func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// watch ends a connection on which requests wait and nothing moves.
func (c *conn) watch() {
	tick := time.NewTicker(max(c.timeout/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.dead:
			return
		}
		c.mu.Lock()
		waiting := len(c.calls) > 0 || c.filling
		c.mu.Unlock()
		if waiting && time.Since(start)-time.Duration(c.moved.Load()) > c.timeout {
			c.fail(ErrTimeout)
			return
		}
	}
}

// do sends a request and waits for its answer. The request's buffers are not used any
// more when it returns.
func (c *conn) do(ctx context.Context, r *request) error {
	select {
	case c.sending <- struct{}{}:
	case <-c.dead:
		return c.reason()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	k, err := c.send(ctx, r)
	<-c.sending
	if err != nil {
		<-c.ended // it may be filling the buffer: an answer can come before all was sent
		return err
	}
	select {
	case <-k.done:
		return k.err
	case <-c.dead:
		<-c.ended
		select {
		case <-k.done:
			return k.err
		default:
			return c.reason()
		}
	case <-ctx.Done():
		if !c.abandon(k) {
			<-c.ended
		}
		return context.Cause(ctx)
	}
}

// abandon makes the answer to a call go nowhere. Where it is being read, the connection ends,
// and false is returned.
func (c *conn) abandon(k *call) bool {
	c.mu.Lock()
	for _, other := range c.calls {
		if other == k {
			k.req = nil
			c.mu.Unlock()
			return true
		}
	}
	c.mu.Unlock()
	select {
	case <-k.done:
		return true
	default:
		c.fail(ErrClosed)
		return false
	}
}

// send registers a call and sends it. An error has ended the connection.
func (c *conn) send(ctx context.Context, r *request) (*call, error) {
	k := &call{req: r, done: make(chan struct{})}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	for c.id++; c.calls[c.id] != nil; c.id++ {
	}
	id := c.id
	c.touch() // before watch sees a call that waits
	c.calls[id] = k
	c.mu.Unlock()
	// A message that is sent in part only is the end of the connection.
	stop := context.AfterFunc(ctx, func() { _ = c.nc.SetWriteDeadline(time.Now()) })
	h := r.header(id)
	buffers := net.Buffers{h[:], r.out}
	_, err := buffers.WriteTo(c.nc)
	if !stop() && err == nil {
		err = context.Cause(ctx) // the deadline may yet be set: this connection is not used again
	}
	if err != nil {
		c.fail(err)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, c.reason()
	}
	return k, nil
}

// receive takes answers until the connection ends.
func (c *conn) receive() {
	defer close(c.ended)
	br := bufio.NewReaderSize(c.nc, readBuffer)
	for {
		var h [headerSize]byte
		_, err := io.ReadFull(br, h[:])
		if err == nil {
			c.touch()
			err = c.take(br, parseReply(&h))
		}
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			c.fail(err)
			return
		}
	}
}

// take reads the data of an answer and ends its call.
func (c *conn) take(br *bufio.Reader, a reply) error {
	c.mu.Lock()
	k := c.calls[a.id]
	if k == nil {
		c.mu.Unlock()
		return protocolError("the server answers a request that was not made (%#x)", a.id)
	}
	delete(c.calls, a.id) // nobody else touches it from here on
	c.filling = true
	r := k.req
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.filling = false
		c.mu.Unlock()
	}()
	if r == nil { // abandoned
		return c.fill(br, nil, int64(a.length))
	}
	if a.result != Success {
		if a.length > maxRefusal {
			return protocolError("the server sends %d bytes with an error", a.length)
		}
		if err := c.fill(br, nil, int64(a.length)); err != nil {
			return err
		}
		k.err = a.result
		close(k.done)
		return nil
	}
	at := uint64(0)
	if r.op == opRead && int(a.length) < len(r.in) {
		// What is left out is zero. The offset is that in the object.
		if at = a.dataOffset(); at >= uint64(r.offset) {
			at -= uint64(r.offset)
		} else if at != 0 {
			return protocolError("the server sends data for offset %d, not %d", a.dataOffset(), r.offset)
		}
	}
	if at > uint64(len(r.in)) || uint64(a.length) > uint64(len(r.in))-at {
		return protocolError("the server sends %d bytes for offset %d of %d", a.length, at, len(r.in))
	}
	if err := c.fill(br, r.in[at:at+uint64(a.length)], int64(a.length)); err != nil {
		return err
	}
	clear(r.in[:at])
	clear(r.in[at+uint64(a.length):])
	r.vdi, r.defaultShift = a.vdi(), a.defaultShift()
	close(k.done)
	return nil
}

// fill reads n bytes, into p or nowhere.
func (c *conn) fill(br *bufio.Reader, p []byte, n int64) error {
	for len(p) > 0 {
		m, err := br.Read(p)
		if m > 0 {
			c.touch()
		}
		if err != nil {
			return err
		}
		p, n = p[m:], n-int64(m)
	}
	for n > 0 {
		m, err := br.Discard(int(min(n, readBuffer)))
		if m > 0 {
			c.touch()
		}
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}
