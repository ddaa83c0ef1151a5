package nbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// connect makes a connection. It tries again until the deadline, at least once; a
// server that answers, and refuses, is not asked again, nor is an inherited socket.
func (n *node) connect(ctx context.Context, deadline time.Time) (*client.Conn, error) {
	for attempt := 0; ; attempt++ {
		c, err := client.Dial(ctx, n.cfg)
		if err == nil {
			return c, nil
		}
		var oe *client.OptionError
		if ctx.Err() != nil || n.at.Network == "fd" || errors.As(err, &oe) || errors.Is(err, client.ErrProtocol) || !time.Now().Before(deadline) {
			return nil, n.connectError(err)
		}
		select {
		case <-time.After(between(attempt)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// do runs f, which only reads, on a connection, and again on another one if that is
// lost and requests may wait.
func (n *node) do(ctx context.Context, f func(*client.Conn) error) error {
	return n.request(ctx, false, f)
}

// change is do for changes. They go over one connection unless the user asks for
// more: servers that write to one file from several threads at once spend their time
// on waiting for each other (see bench: half the time with one).
func (n *node) change(ctx context.Context, f func(*client.Conn) error) error {
	return n.request(ctx, n.opt.Connections <= 1, f)
}

func (n *node) request(ctx context.Context, first bool, f func(*client.Conn) error) error {
	n.mu.Lock()
	n.inFlight++
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.inFlight--
		n.mu.Unlock()
	}()
	for {
		c, err := n.conn(ctx, first)
		if err != nil {
			return err
		}
		err = f(c)
		if err == nil || !gone(err) || ctx.Err() != nil {
			return err
		}
		n.drop(c)
		if n.opt.ReconnectDelay == 0 {
			return driver.Errorf(syscall.EIO, "%w", err)
		}
	}
}

// gone says whether a request failed because the server went: the connection is
// lost, or it said that it ends.
func gone(err error) bool {
	var se *client.ServerError
	return errors.Is(err, client.ErrLost) || errors.As(err, &se) && se.Errno == wire.ESHUTDOWN
}

// drop gives all connections up, once one of them is lost: whether the server has
// started anew, and with it lost what it had not made durable, cannot be known.
func (n *node) drop(c *client.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.conns, c) {
		return
	}
	for _, other := range n.conns {
		other.Close()
	}
	n.conns = nil
	n.lost = time.Now()
}

// perConn is how many requests one connection has before another is made.
const perConn = 4

// conn returns a connection, making one if there is none, or more if that pays; with
// first always the first one.
func (n *node) conn(ctx context.Context, first bool) (*client.Conn, error) {
	for {
		n.mu.Lock()
		switch {
		case n.closed:
			n.mu.Unlock()
			return nil, driver.Errorf(driver.ErrInvalid, "the node is closed")
		case n.dialing != nil && len(n.conns) == 0:
			wait := n.dialing
			n.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		case len(n.conns) > 0 && first:
			c := n.conns[0]
			n.mu.Unlock()
			return c, nil
		case len(n.conns) > 0 && (len(n.conns) >= n.most || n.dialing != nil || n.inFlight <= perConn*len(n.conns)):
			n.turn++
			c := n.conns[n.turn%len(n.conns)]
			n.mu.Unlock()
			return c, nil
		}
		more := len(n.conns) > 0
		done := make(chan struct{})
		n.dialing = done
		n.mu.Unlock()
		err := n.dial(ctx, more)
		n.mu.Lock()
		n.dialing = nil
		n.mu.Unlock()
		close(done)
		if err != nil {
			return nil, err
		}
	}
}

// dial makes one connection: one more, or the first after all were lost. Nobody else
// does meanwhile.
func (n *node) dial(ctx context.Context, more bool) error {
	deadline := time.Time{}
	if !more {
		deadline = n.lost.Add(seconds(n.opt.ReconnectDelay))
	}
	c, err := n.connect(ctx, deadline)
	if err == nil && (c.Size() != n.info.Size || n.write && c.ReadOnly()) {
		err = fmt.Errorf("the NBD server came back with another export: %d bytes, not %d", c.Size(), n.info.Size)
		c.Close()
	}
	if err == nil && !more {
		if err = n.replay(ctx, c); err != nil {
			c.Close()
			if errors.Is(err, client.ErrLost) && time.Now().Before(deadline) {
				return n.dial(ctx, more)
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err == nil && more && len(n.conns) == 0:
		c.Close() // all were lost meanwhile: begin anew
	case err == nil && n.closed:
		c.Close()
	case err == nil:
		n.conns = append(n.conns, c)
	case more && len(n.conns) > 0:
		n.most = len(n.conns) // the server wants no more
		return nil
	case more:
		return nil
	}
	return err
}
