package nbd

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/sockaddr"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// node is an open export.
type node struct {
	at     *sockaddr.Endpoint
	opt    openOptions
	cfg    client.Config
	write  bool
	status string // the metadata context that Map asks for
	info   client.Info
	unit   int64 // requests are multiples of it, a power of two: the block layer sees to that

	mu       sync.Mutex
	conns    []*client.Conn
	most     int           // connections at most
	inFlight int           // requests
	turn     int           // of the connections
	lost     time.Time     // since when there is no connection, zero if there is one
	dialing  chan struct{} // not nil: a goroutine is connecting; closed when it is done
	closed   bool
	journal  journal
	extents  statusCache
	changes  atomic.Uint64 // counts changes, so that old answers of block status are dropped
}

var (
	_ driver.Storage    = (*node)(nil)
	_ driver.ZeroWriter = (*node)(nil)
	_ driver.Discarder  = (*node)(nil)
	_ driver.Resizer    = (*node)(nil)
)

// open connects for the first time.
func (n *node) open(ctx context.Context) error {
	c, err := n.connect(ctx, time.Now().Add(seconds(n.opt.OpenTimeout)))
	if err != nil {
		return err
	}
	n.info = c.Info()
	fail := func(err error) error {
		c.Close()
		return err
	}
	if n.write && c.ReadOnly() {
		return fail(driver.Errorf(syscall.EACCES, "could not open image: %w", syscall.EACCES))
	}
	if n.opt.DirtyBitmap != "" && !n.reports() {
		return fail(driver.Errorf(driver.ErrInvalid, "could not open image: %w", syscall.EINVAL))
	}
	n.unit = max(1, int64(n.info.BlockSize.Min))
	n.most = 1
	if n.info.Flags&wire.FlagCanMultiConn != 0 && n.at.Network != "fd" {
		n.most = int(n.opt.Connections)
		if n.most == 0 {
			n.most = 4
		}
	}
	n.conns = []*client.Conn{c}
	return nil
}

// reports says whether the server has the context that Map asks for.
func (n *node) reports() bool {
	for _, c := range n.info.Contexts {
		if c == n.status {
			return true
		}
	}
	return false
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.info.Size }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits {
	l := driver.Limits{RequestAlignment: n.unit, ZeroAlignment: n.unit, DiscardAlignment: n.unit}
	if p := int64(n.info.BlockSize.Preferred); p > 4096 {
		l.OptTransfer = p
	}
	return l
}

// Traits implements driver.Node.
func (*node) Traits() driver.Traits { return driver.Traits{FixedSize: true} }

// Filename implements driver.Named.
func (n *node) Filename() string { return n.opt.name(n.at) }

// Close implements driver.Node.
func (n *node) Close(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for _, c := range n.conns {
		c.Close()
	}
	n.conns = nil
	return nil
}

// requestError words an error of a request.
func requestError(err error) error {
	var se *client.ServerError
	switch {
	case errors.As(err, &se):
		switch se.Errno {
		case wire.ENOTSUP:
			return driver.Errorf(driver.ErrUnsupported, "%w", err)
		case wire.EPERM:
			return driver.Errorf(driver.ErrReadOnly, "%w", err)
		}
	case errors.Is(err, client.ErrUnsupported):
		return driver.Errorf(driver.ErrUnsupported, "%w", err)
	}
	return err
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	size := n.info.Size
	if off >= size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > size-off {
		p, eof = p[:size-off], io.EOF
	}
	if err := n.do(ctx, func(c *client.Conn) error { return c.ReadAt(ctx, p, off) }); err != nil {
		return 0, requestError(err)
	}
	return len(p), eof
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off > n.info.Size-int64(len(p)) {
		return 0, driver.Errorf(driver.ErrRange, "the export has %d bytes and cannot grow: %w", n.info.Size, driver.ErrNoSpace)
	}
	if len(p) == 0 {
		return 0, nil
	}
	defer n.changes.Add(1)
	err := n.change(ctx, func(c *client.Conn) error { return c.WriteAt(ctx, p, off, false) })
	if err == nil {
		err = n.remember(ctx, entry{off: off, n: int64(len(p)), data: p})
	} else {
		err = requestError(err)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error {
	if !n.write {
		return nil
	}
	mark := n.mark()
	err := n.change(ctx, func(c *client.Conn) error {
		if c.Info().Flags&wire.FlagSendFlush == 0 {
			return nil // nothing is kept back by such a server
		}
		return c.Flush(ctx)
	})
	if err != nil {
		return requestError(err)
	}
	n.forget(mark)
	return nil
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	if off < 0 || off > n.info.Size-length {
		return driver.Errorf(driver.ErrRange, "the export has %d bytes and cannot grow: %w", n.info.Size, driver.ErrNoSpace)
	}
	o := client.ZeroOptions{NoHole: flags&driver.ZeroMayUnmap == 0, Fast: flags&driver.ZeroNoFallback != 0}
	defer n.changes.Add(1)
	err := n.change(ctx, func(c *client.Conn) error { return c.WriteZeroes(ctx, off, length, o) })
	if err != nil {
		return requestError(err)
	}
	return n.remember(ctx, entry{off: off, n: length, zero: true, options: o})
}

// Discard implements driver.Discarder.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	defer n.changes.Add(1)
	if err := n.change(ctx, func(c *client.Conn) error { return c.Trim(ctx, off, length, false) }); err != nil {
		return requestError(err)
	}
	return nil
}

// Resize implements driver.Resizer: exports cannot be resized.
func (n *node) Resize(_ context.Context, size int64, opt driver.ResizeOptions) error {
	switch {
	case opt.Exact && size != n.info.Size:
		return driver.Errorf(driver.ErrUnsupported, "cannot resize NBD nodes")
	case size > n.info.Size:
		return driver.Errorf(driver.ErrUnsupported, "cannot grow NBD nodes")
	}
	return nil
}
