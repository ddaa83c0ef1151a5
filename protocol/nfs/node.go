package nfs

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/readahead"
	"github.com/cowl-disk/cowl/nfs"
)

const (
	// tailMin is the shortest range of zeroes at the end of a file, in bytes, for which the
	// file is cut and grown again.
	tailMin = 1 << 20
	// remeasuring bounds the question for the length after a change that failed.
	remeasuring = 2 * time.Second
)

// node is an open file.
type node struct {
	o       *openOptions
	c       *nfs.Client
	f       *nfs.File
	env     *driver.Env
	write   bool
	noFlush bool
	cache   *cache            // nil: none
	ahead   *readahead.Reader // nil: none
	size    atomic.Int64
	sizeMu  sync.RWMutex // reads and writes within the file: shared; what changes its length: exclusive
	noHoles atomic.Bool  // the server cannot tell of holes, or make them

	unmeasured atomic.Bool // a change was given up that may have changed the length

	mu      sync.Mutex
	content int64 // from here on the file is zeroes
	last    segment
}

// segment is what the server last said of a range of a file that nobody here writes.
type segment struct {
	off, end int64
	data     bool
}

var (
	_ driver.Storage     = (*node)(nil)
	_ driver.ZeroWriter  = (*node)(nil)
	_ driver.Discarder   = (*node)(nil)
	_ driver.Resizer     = (*node)(nil)
	_ driver.Named       = (*node)(nil)
	_ driver.SpaceTeller = (*node)(nil)
)

// Size implements driver.Node.
func (n *node) Size() int64 { return n.size.Load() }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return driver.Limits{OptTransfer: 64 << 10} }

// Traits implements driver.Node. It is not said that the file is remote: writes do not wait for the server, and
// one that is near takes them faster in their order.
func (*node) Traits() driver.Traits { return driver.Traits{ZeroInit: true, ZeroOnGrow: true} }

// Filename implements driver.Named.
func (n *node) Filename() string { return n.o.name() }

// DiskUsage implements driver.SpaceTeller.
func (n *node) DiskUsage(ctx context.Context) (int64, error) {
	a, err := n.f.Attr(ctx)
	if err != nil {
		return -1, n.failed(ctx, err)
	}
	return a.Used, nil
}

// failed is the error of a request.
func (n *node) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var kind error
	if errors.Is(err, nfs.ErrForgotten) {
		kind = driver.ErrForgotten
	}
	return driver.Errorf(kind, "the file '%s' of the NFS server '%s': %w", n.o.Path, n.o.address(), err)
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n.sizeMu.RLock()
	defer n.sizeMu.RUnlock()
	size := n.Size()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off >= size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	read := n.f.ReadAt
	switch {
	case n.cache != nil:
		read = n.cache.read
	case n.ahead != nil:
		read = n.ahead.ReadAt
	}
	got, err := read(ctx, p, off)
	if err == io.EOF && got < len(p) {
		return 0, driver.Errorf(driver.ErrTruncated, "reading %d bytes at offset %d: the file on the server ends there, although it had %d bytes", len(p)-got, off+int64(got), size)
	}
	if err != nil && err != io.EOF {
		return 0, n.failed(ctx, err)
	}
	return len(p), end
}

func (n *node) writable(ctx context.Context, off int64) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !n.write:
		return driver.Errorf(driver.ErrReadOnly, "the file on the server is open for reading only")
	case off < 0:
		return driver.Errorf(driver.ErrRange, "offset %d is negative", off)
	}
	n.remeasured(ctx)
	return nil
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.writable(ctx, off); err != nil || len(p) == 0 {
		return 0, err
	}
	end := off + int64(len(p))
	n.sizeMu.RLock()
	if end <= n.Size() {
		defer n.sizeMu.RUnlock()
	} else {
		n.sizeMu.RUnlock()
		n.sizeMu.Lock()
		defer n.sizeMu.Unlock()
	}
	n.mu.Lock()
	n.content = max(n.content, end)
	n.mu.Unlock()
	err := n.f.WriteAt(ctx, p, off)
	if n.cache != nil {
		n.cache.forget(off, end)
	}
	if err != nil {
		if end > n.Size() {
			n.remeasure(ctx)
		}
		return 0, n.failed(ctx, err)
	}
	if end > n.Size() {
		n.size.Store(end)
	}
	return len(p), nil
}

// remeasure asks for the length after a change that failed, which may have been done in
// part. It is called with sizeMu. For a caller that has given up, the next change asks.
func (n *node) remeasure(ctx context.Context) {
	n.unmeasured.Store(true)
	if ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, remeasuring)
	defer cancel()
	if a, err := n.f.Attr(ctx); err == nil {
		n.size.Store(a.Size)
		n.unmeasured.Store(false)
	}
}

// remeasured asks for the length if an earlier change left that open.
func (n *node) remeasured(ctx context.Context) {
	if !n.unmeasured.Load() {
		return
	}
	n.sizeMu.Lock()
	defer n.sizeMu.Unlock()
	if n.unmeasured.Load() {
		n.remeasure(ctx)
	}
}

// WriteZeroes implements driver.ZeroWriter: without sending them where the file has
// nothing but zeroes yet, where it ends, and where the server can make holes.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	if err := n.writable(ctx, off); err != nil {
		return err
	}
	n.sizeMu.Lock()
	defer n.sizeMu.Unlock()
	size, end := n.Size(), off+length
	n.mu.Lock()
	content := n.content
	n.mu.Unlock()
	switch {
	case off >= content && end <= size:
		return nil
	case off >= content:
		return n.resize(ctx, end)
	case end >= size && length >= tailMin:
		if err := n.resize(ctx, off); err != nil {
			return err
		}
		return n.resize(ctx, end)
	case flags&driver.ZeroMayUnmap == 0 || end > size:
		return driver.ErrUnsupported // the block layer writes them
	}
	return n.punch(ctx, off, length)
}

// Discard implements driver.Discarder.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	if err := n.writable(ctx, off); err != nil {
		return err
	}
	n.sizeMu.RLock()
	defer n.sizeMu.RUnlock()
	if length = min(length, n.Size()-off); length <= 0 {
		return nil
	}
	return n.punch(ctx, off, length)
}

// punch makes a hole. It is called with sizeMu.
func (n *node) punch(ctx context.Context, off, length int64) error {
	if n.noHoles.Load() {
		return driver.ErrUnsupported
	}
	err := n.f.Deallocate(ctx, off, length)
	if n.cache != nil {
		n.cache.forget(off, off+length)
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		n.noHoles.Store(true)
		return driver.ErrUnsupported
	case err != nil:
		return n.failed(ctx, err)
	}
	return nil
}

// resize sets the length. It is called with sizeMu.
func (n *node) resize(ctx context.Context, size int64) error {
	err := n.f.Resize(ctx, size)
	if n.cache != nil {
		n.cache.forget(min(size, n.Size()), max(size, n.Size()))
	}
	if err != nil {
		n.remeasure(ctx)
		return truncateError(ctx, err)
	}
	n.size.Store(size)
	n.mu.Lock()
	n.content = min(n.content, size)
	n.mu.Unlock()
	return nil
}

// Resize implements driver.Resizer.
func (n *node) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff {
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", opt.Prealloc)
	}
	if err := n.writable(ctx, 0); err != nil {
		return err
	}
	n.sizeMu.Lock()
	defer n.sizeMu.Unlock()
	if size == n.Size() {
		return nil
	}
	return n.resize(ctx, size)
}

// Map implements driver.Storage. Where the server does not tell of holes, everything is
// data.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	if err := ctx.Err(); err != nil {
		return driver.Extent{}, err
	}
	n.sizeMu.RLock()
	defer n.sizeMu.RUnlock()
	size := n.Size()
	if off >= size || length <= 0 {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	s, err := n.segment(ctx, off, size)
	if err != nil {
		return driver.Extent{}, n.failed(ctx, err)
	}
	e := driver.Extent{Length: min(length, s.end-off, size-off), Kind: driver.ExtentZero, HostOffset: off, HasOffset: true}
	if s.data {
		e.Kind = driver.ExtentData
	}
	return e, nil
}

// segment tells what is at off, and how far it goes.
func (n *node) segment(ctx context.Context, off, size int64) (segment, error) {
	all := segment{off, size, true}
	if n.noHoles.Load() {
		return all, nil
	}
	n.mu.Lock()
	last := n.last
	n.mu.Unlock()
	if !n.write && last.off <= off && off < last.end {
		return last, nil
	}
	s := segment{off: off, end: size}
	data, eof, err := n.f.NextData(ctx, off)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		n.noHoles.Store(true)
		return all, nil
	case err != nil:
		return all, err
	case eof:
	case data > off:
		s.end = min(data, size)
	default:
		// A hole at off now would mean that it was made meanwhile: to call it data is never wrong.
		s.data = true
		if hole, _, err := n.f.NextHole(ctx, off); err == nil && hole > off {
			s.end = min(hole, size)
		}
	}
	n.mu.Lock()
	n.last = s
	n.mu.Unlock()
	return s, nil
}

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil || !n.write || n.noFlush {
		return err
	}
	if err := n.f.Sync(ctx); err != nil {
		return n.failed(ctx, err)
	}
	return nil
}

// Close implements driver.Node.
func (n *node) Close(ctx context.Context) error {
	if n.ahead != nil {
		n.ahead.Close()
	}
	err := n.Flush(ctx)
	if ctx.Err() != nil {
		err = nil // what was flushed is safe; nobody waits for the rest
	}
	if e := n.f.Close(ctx); e != nil {
		err = errors.Join(err, n.failed(ctx, e))
	}
	n.o.keep(ctx, n.env, n.c, err)
	return err
}
