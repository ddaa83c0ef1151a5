package sheepdog

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
)

const (
	// maxLosses is how often one request may see its connection lost.
	maxLosses = 5
	// firstPause is the first one between two attempts; each is twice as long as that
	// before, up to lastPause.
	firstPause = 20 * time.Millisecond
	lastPause  = 2 * time.Second
	// lastTry is what an attempt to connect is given where there is only one.
	lastTry = 10 * time.Second
)

// Config says how to reach a cluster.
type Config struct {
	// Dial connects to a server.
	Dial func(ctx context.Context) (net.Conn, error)
	// Timeout is how long a server that has requests to answer may be silent before the
	// connection is given up. 0: for ever.
	Timeout time.Duration
	// Reconnect is how long requests wait for another connection after a loss, and for a
	// cluster that does not serve requests at the moment. 0: they fail.
	Reconnect time.Duration
}

// Client talks to a cluster over one connection at a time. It is safe for use by several
// goroutines.
type Client struct {
	cfg  Config
	life context.Context
	end  context.CancelFunc

	mu         sync.Mutex
	conn       *conn
	connecting chan struct{} // not nil: a connection is being made; closed after that
	failed     error         // how the last attempt ended
	open       map[*VDI]bool // those to be locked again on another connection
	closed     bool
}

// doer does requests on one connection.
type doer func(ctx context.Context, r *request) error

// Connect connects to a server. The caller closes the client.
func Connect(ctx context.Context, cfg Config) (*Client, error) {
	c := &Client{cfg: cfg, open: map[*VDI]bool{}}
	nc, err := cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.conn = newConn(nc, cfg.Timeout)
	return c, nil
}

// Close drops the connection. Requests under way fail.
func (c *Client) Close() {
	c.mu.Lock()
	conn, wait := c.conn, c.connecting
	c.conn, c.closed = nil, true
	c.mu.Unlock()
	c.end()
	if conn != nil {
		conn.fail(ErrClosed)
		<-conn.ended
	}
	if wait != nil {
		<-wait // it ends with c.life
	}
}

// current returns the connection, and makes one if there is none. again: one was lost.
func (c *Client) current(ctx context.Context, again bool) (*conn, error) {
	for {
		c.mu.Lock()
		switch {
		case c.closed:
			c.mu.Unlock()
			return nil, ErrClosed
		case c.conn != nil:
			conn := c.conn
			c.mu.Unlock()
			return conn, nil
		}
		if c.connecting == nil {
			if again && c.cfg.Reconnect == 0 {
				c.mu.Unlock()
				return nil, message.Errorf(ErrLost, "the connection to the server is lost")
			}
			c.connecting = make(chan struct{})
			go c.reconnect()
		}
		wait := c.connecting
		c.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		c.mu.Lock()
		conn, err := c.conn, c.failed
		c.mu.Unlock()
		if conn == nil && err != nil {
			return nil, err
		}
	}
}

// drop gives a lost connection up.
func (c *Client) drop(lost *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == lost {
		c.conn = nil
	}
}

// reconnect makes a connection.
func (c *Client) reconnect() {
	ctx, cancel := context.WithTimeoutCause(c.life, max(c.cfg.Reconnect, lastTry), ErrTimeout)
	defer cancel()
	var found *conn
	var reason error
	for pause := firstPause; found == nil; pause = min(2*pause, lastPause) {
		nc, err := c.cfg.Dial(ctx)
		if err == nil {
			found = newConn(nc, c.cfg.Timeout)
			if err = c.prepare(ctx, found); err != nil {
				found.fail(err)
				<-found.ended
				found = nil
			}
		}
		if err == nil {
			break
		}
		if ctx.Err() == nil || reason == nil {
			reason = err
		}
		if c.cfg.Reconnect == 0 || errors.Is(err, ErrProtocol) || errors.Is(err, errGone) || !sleep(ctx, pause) {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case found == nil:
		c.failed = message.Errorf(ErrLost, "the connection to the server is lost, and cannot be made again: %w", reason)
	case c.closed:
		go found.fail(ErrClosed)
	default:
		c.conn, c.failed = found, nil
	}
	close(c.connecting)
	c.connecting = nil
}

// prepare does on a new connection what has to be done before other requests.
func (c *Client) prepare(ctx context.Context, conn *conn) error {
	c.mu.Lock()
	open := slices.Collect(maps.Keys(c.open))
	c.mu.Unlock()
	for _, v := range open {
		if err := v.relock(ctx, conn.do); err != nil {
			return err
		}
	}
	return nil
}

// do does a request, on another connection if one is lost.
func (c *Client) do(ctx context.Context, r *request) error {
	var until time.Time // for how long a cluster that is not ready is waited for
	pause := firstPause
	for losses := 0; ; {
		conn, err := c.current(ctx, losses > 0)
		if err != nil {
			return err
		}
		err = conn.do(ctx, r)
		var result Result
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrLost), errors.Is(err, ErrProtocol):
			c.drop(conn)
			switch losses++; {
			case errors.Is(err, ErrProtocol) || c.cfg.Reconnect == 0:
				return err
			case r.once:
				return message.Errorf(nil, "%w; whether the server has done the request is unknown", err)
			case losses > maxLosses:
				return message.Errorf(nil, "the connection was lost %d times: %w", losses, err)
			}
			r.resent = true
		case errors.As(err, &result) && result.passing():
			if until.IsZero() {
				until = time.Now().Add(c.cfg.Reconnect)
			}
			if !time.Now().Before(until) {
				return err
			}
			if !sleep(ctx, pause) {
				return context.Cause(ctx)
			}
			pause = min(2*pause, lastPause)
		default:
			return err
		}
	}
}

// sleep returns false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// read reads from an object that is not erasure coded or whose servers join it.
func (c *Client) read(ctx context.Context, object uint64, offset int64, p []byte) error {
	return c.do(ctx, &request{op: opRead, object: object, offset: uint32(offset), in: p})
}
