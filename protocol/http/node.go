package http

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/readahead"
)

// source reads ranges of one object.
type source interface {
	// read fills p from off, which is within the object, handing on to got how many bytes
	// arrive (it may be nil). What can be expected to pass has been tried again.
	read(ctx context.Context, p []byte, off int64, got func(n int)) error
	close()
}

// node is an open disk.
type node struct {
	src    source
	c      *client // src, of a web server
	name   string
	size   int64
	cache  *cache // nil if there is a spool
	spool  *spool
	ahead  *readahead.Reader // for large reads in order from a server that is far away; nil: none
	ctx    context.Context   // of what goes on between requests
	cancel context.CancelFunc
}

var (
	_ driver.Storage = (*node)(nil)
	_ driver.Named   = (*node)(nil)
)

// directMin is the shortest read in bytes that goes to the server by itself.
const directMin = 512 << 10

const (
	// farAway is how long the first answer takes of a server from which large reads in order are
	// fetched ahead, in windows of aheadWindow bytes, aheadDepth at a time.
	farAway     = 5 * time.Millisecond
	aheadWindow = 2 << 20
	aheadDepth  = 4
)

// windowOf is the length of the windows of the cache for a value of readahead.
func windowOf(readahead int64) int64 { return min(max(readahead, minWindow), maxWindow) }

// open asks for the first bytes, to learn the size and whether there are ranges.
func (n *node) open(ctx context.Context, window int64, env *driver.Env, sequential bool) error {
	n.ctx, n.cancel = context.WithCancel(context.Background())
	window = windowOf(window)
	began := time.Now()
	a, err := n.first(ctx, window)
	if err != nil {
		return err
	}
	switch a.StatusCode {
	case http.StatusPartialContent:
		defer a.body.Close()
		_, last, total, err := contentRange(a.Header.Get("Content-Range"))
		if err != nil {
			return err
		}
		if total < 0 {
			return driver.Errorf(driver.ErrUnsupported, "server didn't report file size")
		}
		if err := n.c.check(a, total); err != nil {
			return err
		}
		n.c.moved(a)
		n.size = total
		n.cache = newCache(n.ctx, n.src, n.size, window)
		if sequential && time.Since(began) > farAway {
			n.ahead = readahead.New(readahead.Config{Window: aheadWindow, Ahead: aheadDepth, Keep: 2 * aheadDepth, Eager: true, Size: n.Size, Read: n.fetch})
		}
		if head := make([]byte, min(last+1, window, total)); last+1 >= min(window, total) {
			if _, err := io.ReadFull(a.body, head); err == nil {
				n.cache.put(0, head)
			}
		}
		return nil
	case http.StatusRequestedRangeNotSatisfiable: // of an empty object
		defer a.body.Close()
		if _, _, total, err := contentRange(a.Header.Get("Content-Range")); err != nil || total != 0 {
			return statusError(a)
		}
		n.cache = newCache(n.ctx, n.src, n.size, window)
		return nil
	default: // 200
		if err := n.c.check(a, a.ContentLength); err != nil {
			a.body.Close()
			return err
		}
		n.c.moved(a)
		return n.openSpool(ctx, a, env, sequential)
	}
}

// fetch reads from the server.
func (n *node) fetch(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.src.read(ctx, p, off, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

// first sends the first request, again after what can be expected to pass.
func (n *node) first(ctx context.Context, window int64) (*answer, error) {
	var a *answer
	err := repeat(ctx, func() (err error) {
		if a, err = n.c.get(ctx, 0, window); err != nil {
			var dial *DialError
			if errors.As(err, &dial) {
				return driver.Errorf(driver.ErrInvalid, "%w", err) // there may be no such server
			}
			return err
		}
		switch a.StatusCode {
		case http.StatusOK, http.StatusPartialContent:
			return nil
		case http.StatusRequestedRangeNotSatisfiable:
			if a.Header.Get("Content-Range") != "" {
				return nil
			}
		}
		defer a.body.Close()
		return statusError(a)
	})
	return a, err
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.size }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return driver.Limits{OptTransfer: 64 << 10} }

// Traits implements driver.Node.
func (*node) Traits() driver.Traits { return driver.Traits{FixedSize: true, Remote: true} }

// Filename implements driver.Named.
func (n *node) Filename() string { return n.name }

// Flush implements driver.Node: nothing is written.
func (*node) Flush(context.Context) error { return nil }

// Close implements driver.Node.
func (n *node) Close(context.Context) error {
	n.release()
	return nil
}

// release ends what goes on in the background.
func (n *node) release() {
	if n.cancel != nil {
		n.cancel()
	}
	if n.ahead != nil {
		n.ahead.Close()
	}
	if n.cache != nil {
		n.cache.close()
	}
	if n.spool != nil {
		n.spool.close()
	}
	n.src.close()
}

// Map implements driver.Storage: web servers do not tell where holes are.
func (n *node) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	if off >= n.size {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	return driver.Extent{Length: min(length, n.size-off), Kind: driver.ExtentData, HostOffset: off, HasOffset: true}, nil
}

// WriteAt implements driver.Storage: it refuses.
func (*node) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, driver.Errorf(driver.ErrReadOnly, "curl driver does not support writes")
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err // what has come already is not for those who no longer want it
	}
	if off >= n.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > n.size-off
	if short {
		p = p[:n.size-off]
	}
	var err error
	switch {
	case n.spool != nil:
		err = n.spool.fill(ctx, p, off)
	case len(p) >= directMin && n.ahead != nil:
		_, err = n.ahead.ReadAt(ctx, p, off)
	case len(p) >= directMin:
		err = n.src.read(ctx, p, off, nil)
	default:
		err = n.cache.read(ctx, p, off)
	}
	if err != nil {
		return 0, err
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}
