package driver

import (
	"io"
	"slices"
	"sync"
)

// maxConnections bounds how many connections are kept at a time.
const maxConnections = 4

// Connections keeps connections to servers between the requests of one operation: to make
// an image and to open it takes one login then. They are closed at the latest when the
// operation, which owns the Connections, closes them. Its methods may be called by several
// goroutines. A nil *Connections keeps nothing.
type Connections struct {
	mu     sync.Mutex
	kept   []keptConnection // the oldest first
	closed bool
}

type keptConnection struct {
	key  any
	conn io.Closer
}

// Keep takes over a connection that nobody uses any more. key is comparable, of a type of
// the driver's own, and tells apart all that a connection depends on: the server, the user,
// with what the user logs in, how the server is recognised. Where there is no
// place conn is closed, or the oldest of those that are kept.
func (c *Connections) Keep(key any, conn io.Closer) {
	if drop := c.keep(key, conn); drop != nil {
		_ = drop.Close() // nothing is under way on it
	}
}

// keep returns what is to be closed, or nil.
func (c *Connections) keep(key any, conn io.Closer) io.Closer {
	if c == nil {
		return conn
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return conn
	}
	c.kept = append(c.kept, keptConnection{key, conn})
	if len(c.kept) <= maxConnections {
		return nil
	}
	oldest := c.kept[0].conn
	c.kept = slices.Delete(c.kept, 0, 1)
	return oldest
}

// Take returns the connection that was kept last under a key, which is the caller's then; nil
// if there is none.
func (c *Connections) Take(key any) io.Closer {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, k := range slices.Backward(c.kept) {
		if k.key == key {
			c.kept = slices.Delete(c.kept, i, i+1)
			return k.conn
		}
	}
	return nil
}

// Close closes what is kept, and what is given from now on.
func (c *Connections) Close() {
	if c == nil {
		return
	}
	c.mu.Lock()
	kept := c.kept
	c.kept, c.closed = nil, true
	c.mu.Unlock()
	for _, k := range kept {
		_ = k.conn.Close()
	}
}
