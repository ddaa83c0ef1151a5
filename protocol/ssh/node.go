package ssh

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	// defaultConnections is how many connections there are at most. To a server that is near there are no more than
	// processors, but two: they would only take turns.
	defaultConnections = 4
	// perConnection is how many reads or writes a connection has before another one
	// is made.
	perConnection = 2
	// tries is how often a read is tried again after the loss of the connection, with
	// firstWait and then twice as long each time in between.
	tries     = 6
	firstWait = 100 * time.Millisecond
	// ballastSize is that of node.ballast, in bytes.
	ballastSize = 32 << 20
	// tailMin is the shortest range of zeroes at the end of a file, in bytes, for which the
	// file is cut and grown again.
	tailMin = 1 << 20
)

// node is an open file.
type node struct {
	d        *dialer
	write    bool
	noFlush  bool
	syncs    bool // the server has fsync
	modified time.Time
	// ballast is never touched, so that it takes no room. The libraries make garbage of
	// the length of what is read: with little else alive, the collector would run for
	// every few packets.
	ballast    []byte
	size       atomic.Int64
	sizeMu     sync.RWMutex // reads and writes within the file: shared; what changes its length: exclusive
	unmeasured atomic.Bool  // a change was given up that may have changed the length
	content    int64        // from here on the file is zeroes; under sizeMu or mu

	mu       sync.Mutex
	most     int
	sessions []*session
	dialing  int           // goroutines that make one more connection each
	dialed   chan struct{} // not nil: the first connection after a loss is being made; closed when that is over
	reason   error         // why a connection was lost last
	closed   bool

	// Of a disk that is written: see reconnect.go.
	lost     error         // why the last of all connections was lost, until there is another one
	failed   error         // why the disk cannot be used any more
	boot     string        // which start of the server's system it is; "": unknown
	learnt   chan struct{} // closed when the first connection has told boot, or will not
	written  bool          // something was written since the last flush
	changes  int64         // how often
	systems  int64         // how often the server's system was, or may be, another one
	resizing bool
	dials    sync.WaitGroup
	ctx      context.Context // of the goroutines that dial
	stop     context.CancelFunc
}

var (
	_ driver.Storage    = (*node)(nil)
	_ driver.ZeroWriter = (*node)(nil)
	_ driver.Resizer    = (*node)(nil)
	_ driver.Named      = (*node)(nil)
)

// Size implements driver.Node.
func (n *node) Size() int64 { return n.size.Load() }

// Limits implements driver.Node.
func (*node) Limits() driver.Limits { return driver.Limits{OptTransfer: 64 << 10} }

// Traits implements driver.Node.
func (*node) Traits() driver.Traits {
	return driver.Traits{ZeroInit: true, ZeroOnGrow: true, Remote: true}
}

// Filename implements driver.Named.
func (n *node) Filename() string { return n.d.o.name(n.d.t.user, n.d.t.port) }

// Map implements driver.Storage: SFTP does not tell where holes are.
func (n *node) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	size := n.Size()
	if off >= size {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	return driver.Extent{Length: min(length, size-off), Kind: driver.ExtentData, HostOffset: off, HasOffset: true}, nil
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n.sizeMu.RLock()
	defer n.sizeMu.RUnlock()
	size := n.Size()
	if err := ctx.Err(); err != nil || off >= size {
		return 0, orEOF(err)
	}
	var eof error
	if int64(len(p)) > size-off {
		p, eof = p[:size-off], io.EOF
	}
	done, failed := 0, 0
	for done < len(p) {
		s, err := n.session(ctx)
		if err == nil {
			var got int
			err = s.do(ctx, false, func() (err error) {
				got, err = s.file.ReadAt(p[done:], off+int64(done))
				return err
			})
			if err == nil || errors.Is(err, io.EOF) && got > 0 { // some servers answer with less than was asked for
				done += got
				failed = 0
				continue
			}
			if errors.Is(err, io.EOF) && s.reason() == nil {
				return 0, driver.Errorf(driver.ErrTruncated, "reading %d bytes at offset %d: the file on the server ends there, although it had %d bytes", len(p)-done, off+int64(done), size)
			}
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if errors.Is(err, driver.ErrTimeout) {
			failed++ // each try takes the whole time-out
		}
		if failed++; failed > tries || !passing(err) {
			return 0, driver.Errorf(nil, "reading %d bytes at offset %d: %w", len(p)-done, off+int64(done), err)
		}
		select {
		case <-time.After(firstWait << (failed - 1)):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return len(p), eof
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// passing says whether an error may be gone after connecting again.
func passing(err error) bool {
	var status *StatusError
	var key *HostKeyError
	var changed *ChangedError
	var loss *LossError
	return !errors.As(err, &loss) && !errors.As(err, &status) && !errors.As(err, &key) && !errors.As(err, &changed) && !errors.Is(err, errNodeClosed)
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.writable(ctx, off); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	end := off + int64(len(p))
	n.sizeMu.RLock()
	if end <= n.Size() {
		defer n.sizeMu.RUnlock()
	} else {
		n.sizeMu.RUnlock()
		n.sizeMu.Lock()
		defer n.sizeMu.Unlock()
		defer n.resizes()()
	}
	n.mu.Lock()
	n.content = max(n.content, end)
	n.mu.Unlock()
	err := n.change(ctx, writing, func(s *session) error { return s.writeAt(p, off) })
	if err != nil {
		if end > n.Size() {
			n.remeasure(ctx)
		}
		return 0, wrapChange(ctx, err, "writing %d bytes at offset %d: %w", len(p), off, err)
	}
	n.grown(end)
	return len(p), nil
}

func wrapChange(ctx context.Context, err error, format string, args ...any) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return driver.Errorf(nil, format, args...)
}

// grown notes that the file reaches at least to end. It is called with sizeMu.
func (n *node) grown(end int64) {
	if end > n.Size() {
		n.size.Store(end)
	}
}

// remeasure asks for the length after a change that failed, which may have been done in
// part. It is called with sizeMu. For a caller that has given up, the next change asks.
func (n *node) remeasure(ctx context.Context) {
	n.unmeasured.Store(true)
	if ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	_ = n.change(ctx, asking, func(s *session) error {
		st, err := s.file.Stat()
		if err == nil {
			n.size.Store(st.Size())
			n.unmeasured.Store(false)
		}
		return err
	})
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

// WriteZeroes implements driver.ZeroWriter: without sending them where the file has
// nothing but zeroes yet, where it ends, and for the end of the file.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, _ driver.ZeroFlags) error {
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
		return n.truncate(ctx, end)
	case end >= size && length >= tailMin:
		if err := n.truncate(ctx, off); err != nil {
			return err
		}
		return n.truncate(ctx, end)
	}
	return driver.ErrUnsupported // the block layer writes them
}

// truncate sets the length. It is called with sizeMu.
func (n *node) truncate(ctx context.Context, size int64) error {
	defer n.resizes()()
	err := n.change(ctx, resizing, func(s *session) error { return s.file.Truncate(size) })
	if err != nil {
		n.remeasure(ctx)
		return wrapChange(ctx, err, "failed to resize remote file '%s' to %d bytes: %w", n.d.o.Path, size, err)
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
	return n.truncate(ctx, size)
}

// Flush implements driver.Node. Where the server has no fsync nothing is done: Open has
// warned of it.
func (n *node) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil || !n.write || n.noFlush {
		return err
	}
	if err := n.report(); err != nil || !n.syncs {
		return err
	}
	n.mu.Lock()
	changes := n.changes
	n.mu.Unlock()
	err := n.change(ctx, asking, func(s *session) error { return s.file.Sync() })
	var loss *LossError
	switch {
	case err == nil:
		n.flushed(changes)
	case errors.As(err, &loss):
		return n.report()
	default:
		return wrapChange(ctx, err, "failed to sync remote file '%s': %w", n.d.o.Path, err)
	}
	return nil
}

// Close implements driver.Node.
func (n *node) Close(ctx context.Context) error {
	n.mu.Lock()
	n.closed = true
	sessions := n.sessions
	n.sessions = nil
	n.stop()
	n.mu.Unlock()
	var wg sync.WaitGroup
	errs := make([]error, len(sessions))
	for i, s := range sessions[min(1, len(sessions)):] {
		wg.Go(func() { errs[i+1] = s.close(ctx) })
	}
	if len(sessions) > 0 {
		errs[0] = n.d.keep(ctx, sessions[0])
	}
	wg.Wait()
	n.dials.Wait()
	if n.write {
		return errors.Join(append(errs, n.report())...)
	}
	return nil
}

// flags are how the file is opened.
func (n *node) flags() int {
	if n.write {
		return os.O_RDWR
	}
	return os.O_RDONLY
}
