package iscsi

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	readBuffer = 64 << 10
	// maxAbandoned is how many commands nobody waits for any more may be under way.
	maxAbandoned = 256
	// maxReplies is how many answers to the target may wait to be sent.
	maxReplies = 64
	// writeGrace is how long a write goes on whose context has ended.
	writeGrace = 100 * time.Millisecond
	// farewell is how long a logout is waited for.
	farewell = 300 * time.Millisecond
)

// conn is a connection in the full feature phase. It ends with its first error.
type conn struct {
	nc       net.Conn
	src      *source
	br       *bufio.Reader
	p        params
	cfg      *Config
	sendLock chan struct{} // holds an element while somebody sends
	cmdSN    uint32        // of the next command; under sendLock
	statSN   atomic.Uint32 // ExpStatSN

	progress atomic.Int64 // when a command last got further, in ns since start
	filling  atomic.Bool  // a data segment is being read
	waiting  atomic.Int32 // commands that the window holds back
	replies  chan *header
	received chan struct{} // closed when the receiver has ended

	mu        sync.Mutex
	maxSN     uint32        // MaxCmdSN
	expSN     uint32        // ExpCmdSN
	moved     chan struct{} // closed when maxSN grows
	tasks     map[uint32]*task
	abandoned int
	tag       uint32          // the last one
	texts     chan<- textPart // where answers to a text go, nil if none was sent
	worked    bool            // a command that needs a ready unit succeeded
	err       error
	dead      chan struct{} // closed with err
}

// start is the origin of the times of conn and source.
var start = time.Now()

func now() int64 { return int64(time.Since(start)) }

func since(t int64) time.Duration { return time.Duration(now() - t) }

// source reads from a connection and notes when something came.
type source struct {
	nc    net.Conn
	heard atomic.Int64
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.nc.Read(p)
	s.heard.Store(now())
	return n, err
}

func (s *source) silence() time.Duration { return since(s.heard.Load()) }

// newConn starts the goroutines of a connection that is logged in.
func newConn(l *login) *conn {
	c := &conn{nc: l.nc, src: l.src, br: l.br, p: l.p, cfg: l.cfg, sendLock: make(chan struct{}, 1), cmdSN: initialCmdSN,
		replies: make(chan *header, maxReplies), received: make(chan struct{}), maxSN: l.max, expSN: l.exp,
		moved: make(chan struct{}), tasks: map[uint32]*task{}, dead: make(chan struct{})}
	c.statSN.Store(l.stat)
	c.progress.Store(now())
	go c.receive()
	go c.reply()
	go c.watch()
	return c
}

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

// reason is why the connection ended.
func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// idle says whether the connection works and the target has no command, as far as is known.
func (c *conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && len(c.tasks) == 0
}

// lock takes sendLock.
func (c *conn) lock(ctx context.Context) error {
	select {
	case c.sendLock <- struct{}{}:
		return nil
	case <-c.dead:
		return c.reason()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *conn) unlock() { <-c.sendLock }

// lockForCommand takes sendLock when the window of the target is open.
func (c *conn) lockForCommand(ctx context.Context) error {
	for {
		if err := c.lock(ctx); err != nil {
			return err
		}
		c.mu.Lock()
		open, moved := int32(c.maxSN-c.cmdSN) >= 0, c.moved
		c.mu.Unlock()
		if open {
			return nil
		}
		c.unlock()
		c.waiting.Add(1)
		err := c.waitFor(ctx, moved)
		c.waiting.Add(-1)
		if err != nil {
			return err
		}
	}
}

// waitFor waits until a channel is closed.
func (c *conn) waitFor(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-c.dead:
		return c.reason()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// write sends PDUs. It is called with sendLock. If ctx ends meanwhile, and the target does
// not take the rest soon, the connection ends, since half a PDU cannot be taken back.
func (c *conn) write(ctx context.Context, b *batch) error {
	written := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-written:
		case <-time.After(writeGrace):
			c.fail(context.Cause(ctx))
		}
	})
	_, err := b.bufs.WriteTo(c.nc)
	close(written)
	stop()
	if err != nil {
		c.fail(err)
		return c.reason()
	}
	return nil
}

// sendImmediate sends a PDU that is no command of the window.
func (c *conn) sendImmediate(ctx context.Context, h *header, data []byte) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	h[0] |= immediate
	h.set(24, c.cmdSN)
	h.set(28, c.statSN.Load())
	b := newBatch(1)
	b.add(h, data, c.p.digests)
	return c.write(ctx, b)
}

// sawNumbers takes the numbers of a PDU of the target.
func (c *conn) sawNumbers(h *header, hasStatus bool) {
	if stat := h.u32(24); hasStatus && int32(stat+1-c.statSN.Load()) > 0 {
		c.statSN.Store(stat + 1)
	}
	exp, highest := h.u32(28), h.u32(32)
	if int32(highest-(exp-1)) < 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if int32(exp-c.expSN) > 0 {
		c.expSN = exp
	}
	if int32(highest-c.maxSN) > 0 {
		c.maxSN = highest
		close(c.moved)
		c.moved = make(chan struct{})
	}
}

// reply sends the answers that the receiver has, which itself must never wait.
func (c *conn) reply() {
	for {
		select {
		case h := <-c.replies:
			if c.sendImmediate(context.Background(), h, nil) != nil {
				return
			}
		case <-c.dead:
			return
		}
	}
}

// queue hands a PDU to reply. A target that asks faster than it takes answers is given up.
func (c *conn) queue(h *header) error {
	select {
	case c.replies <- h:
		return nil
	default:
		return protocolError("the target asks, and does not take the answers")
	}
}

// watch pings a silent target, and gives it up when it does not answer.
func (c *conn) watch() {
	every := c.cfg.keepAlive()
	if t := c.cfg.Timeout; t > 0 {
		every = min(every, max(t/4, time.Millisecond))
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	probing := false
	probed := make(chan struct{}, 1)
	for {
		select {
		case <-tick.C:
		case <-probed:
			probing = false
			continue
		case <-c.dead:
			return
		}
		silent, idle := c.src.silence(), since(c.progress.Load())
		if c.filling.Load() {
			idle = min(idle, silent)
		}
		oldest := c.oldest()
		waited := oldest != nil || c.waiting.Load() > 0
		if silent > 3*c.cfg.keepAlive() || waited && c.cfg.Timeout > 0 && idle > c.cfg.Timeout {
			c.fail(ErrTimeout)
			return
		}
		if oldest != nil && !probing && idle > 2*c.cfg.keepAlive() {
			// A reset of the unit by others drops commands without an answer. The
			// next command tells.
			probing = true
			lun := oldest.lun
			go func() {
				_ = c.do(context.Background(), &Command{LUN: lun, probe: true})
				probed <- struct{}{}
			}()
		}
		if silent >= c.cfg.keepAlive()/2 {
			ping := header{0: opNopOut, 1: flagFinal}
			ping.set(16, c.newTag())
			ping.set(20, noTag)
			_ = c.queue(&ping) // a full queue means that there is traffic enough
		}
	}
}

// oldest returns a command that waits for an answer, nil if none does.
func (c *conn) oldest() *task {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tasks {
		if t.cmd != nil {
			return t
		}
	}
	return nil
}

func (c *conn) newTag() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nextTag()
}

// nextTag is called with mu. Tags of pings are never those of commands: both count up.
func (c *conn) nextTag() uint32 {
	for {
		c.tag++
		if _, used := c.tasks[c.tag]; !used && c.tag != noTag {
			return c.tag
		}
	}
}

// close logs out and ends the connection.
func (c *conn) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	h := header{0: opLogout, 1: flagFinal} // reason 0: the session
	h.set(16, c.newTag())
	if c.sendImmediate(ctx, &h, nil) == nil {
		select {
		case <-c.dead:
		case <-ctx.Done():
		}
	}
	c.fail(ErrClosed)
	<-c.received
}

var errLoggedOut = errors.New("the target logs out")
