package native

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/internal/readahead"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// Options say how a disk is used.
type Options struct {
	Write bool
	// NoFlush: Flush does nothing.
	NoFlush bool
	// Sequential: the disk is read once, in order.
	Sequential bool
	// Timeout bounds each request, 0: it takes what it takes.
	Timeout time.Duration
	// Limits of the disk, beside those that its Facts tell.
	Limits driver.Limits
	// Subject names the disk in errors ("the image x").
	Subject string
}

// Disk is an open disk: Storage without a name.
type Disk struct {
	p     *Process
	c     *client.Conn
	env   *driver.Env
	opt   Options
	facts link.Facts
	size  atomic.Int64
	// Reads and writes within the disk hold it shared, what changes its size alone.
	sizeMu sync.RWMutex
	noZero atomic.Bool                     // the engine cannot write zeroes that it is not sent
	last   atomic.Pointer[context.Context] // of the last request
	closed atomic.Bool                     // the program may have another disk
	status statusCache
	ahead  *readahead.Reader // nil: nothing is read before it is asked for
}

var (
	_ driver.Storage     = (*Disk)(nil)
	_ driver.ZeroWriter  = (*Disk)(nil)
	_ driver.Discarder   = (*Disk)(nil)
	_ driver.Resizer     = (*Disk)(nil)
	_ driver.SpaceTeller = (*Disk)(nil)
)

// Open opens a disk, which args of the engine name. The program may be one that an earlier request has left in
// env, which may be nil, and is left there when the disk is closed.
func (e *Engine) Open(ctx context.Context, env *driver.Env, args any, opt Options) (*Disk, error) {
	p, err := e.program(ctx, env)
	if err != nil {
		return nil, err
	}
	d := &Disk{p: p, env: env, opt: opt}
	err = p.Call(ctx, link.OpOpen, args, &d.facts)
	if err == nil && (d.facts.Size < 0 || d.facts.Size > link.Size) {
		err = driver.Errorf(driver.ErrTooLarge, "%s has %d bytes", opt.Subject, d.facts.Size)
	}
	if err == nil {
		err = p.dial(ctx)
	}
	if err != nil {
		p.abandon(err)
		return nil, err
	}
	d.c = p.nbd
	d.size.Store(d.facts.Size)
	d.noZero.Store(!d.facts.Zeroes)
	if opt.Sequential && !opt.Write {
		d.ahead = d.newAhead()
	}
	return d, nil
}

// once does one operation, as Process.Call does it.
func (e *Engine) once(ctx context.Context, env *driver.Env, op string, args, result any) error {
	p, err := e.program(ctx, env)
	if err != nil {
		return err
	}
	if err = p.Call(ctx, op, args, result); err != nil || !p.keep(ctx, env) {
		p.abandon(err)
	}
	return err
}

// Create makes a disk, which args of the engine name. made, if it is not nil, becomes whether it was
// not there before. env is as for Open.
func (e *Engine) Create(ctx context.Context, env *driver.Env, args any, made *bool) error {
	if made == nil {
		made = new(bool)
	}
	return e.once(ctx, env, link.OpCreate, args, made)
}

// Delete removes a disk, which args of the engine name. It gives up after limit: an engine waits
// where its servers are gone, and this is often done since they are.
func (e *Engine) Delete(ctx context.Context, args any, limit time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := e.once(bounded, nil, link.OpDelete, args, nil)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return driver.Errorf(driver.ErrTimeout, "%s does not do it at once", e.Text)
	}
	return err
}

// abandon ends the program without a farewell.
func (p *Process) abandon(err error) {
	if err == nil {
		err = errClosed()
	}
	p.kill(err)
	p.bury()
}

// Facts are what the engine told of the disk when it was opened.
func (d *Disk) Facts() link.Facts { return d.facts }

// Call does an operation of the engine, as Process.Call does.
func (d *Disk) Call(ctx context.Context, op string, args, result any) error {
	if d.closed.Load() {
		return errClosed()
	}
	return d.p.Call(ctx, op, args, result)
}

func errClosed() error { return driver.Errorf(driver.ErrInvalid, "the disk is closed") }

// Size implements driver.Node.
func (d *Disk) Size() int64 { return d.size.Load() }

// SetSize tells that the disk has another size now, by an operation of the engine.
func (d *Disk) SetSize(size int64) {
	d.sizeMu.Lock()
	defer d.sizeMu.Unlock()
	d.size.Store(size)
	d.status.changes.Add(1)
}

// Limits implements driver.Node.
func (d *Disk) Limits() driver.Limits { return d.opt.Limits }

// Traits implements driver.Node.
func (*Disk) Traits() driver.Traits {
	return driver.Traits{ZeroInit: true, ZeroOnGrow: true, Remote: true}
}

// DiskUsage implements driver.SpaceTeller.
func (d *Disk) DiskUsage(ctx context.Context) (n int64, err error) {
	err = d.Call(ctx, link.OpUsage, nil, &n)
	return n, err
}

// request does f, with the bound that a request has.
func (d *Disk) request(ctx context.Context, op string, f func(ctx context.Context) error) error {
	if d.closed.Load() {
		return errClosed()
	}
	if lost := d.p.gave(); lost != nil {
		return lost
	}
	d.last.Store(&ctx)
	bounded := ctx
	if d.opt.Timeout > 0 {
		b, cancel := context.WithTimeout(ctx, d.opt.Timeout)
		defer cancel()
		bounded = b
	}
	err := f(bounded)
	var refused *client.ServerError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		d.p.hurry.Store(true)
		return ctx.Err()
	case bounded.Err() != nil:
		d.p.hurry.Store(true)
		return driver.Errorf(driver.ErrTimeout, "%s of %s: no answer within %d seconds", op, d.opt.Subject, int64(d.opt.Timeout/time.Second))
	case errors.Is(err, client.ErrLost):
		if lost := d.p.loss(); lost != nil {
			return lost
		}
		return err
	case errors.Is(err, client.ErrUnsupported), errors.As(err, &refused) && refused.Errno == wire.ENOTSUP:
		return driver.ErrUnsupported
	}
	return d.why(ctx, op, err)
}

// why asks for the reason of an error, which NBD has few words for.
func (d *Disk) why(ctx context.Context, op string, err error) error {
	var reason *link.Error
	if d.Call(ctx, link.OpWhy, nil, &reason) != nil || reason == nil {
		return driver.Errorf(nil, "%s of %s: %w", op, d.opt.Subject, err)
	}
	if reason.Errno == 0 {
		return driver.Errorf(syscall.EIO, "%s of %s: %s", op, d.opt.Subject, reason.Text)
	}
	return driver.Errorf(nil, "%s of %s: %w", op, d.opt.Subject, syscall.Errno(reason.Errno))
}

// ReadAt implements driver.Storage.
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	d.sizeMu.RLock()
	defer d.sizeMu.RUnlock()
	size := d.Size()
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
	var err error
	if d.ahead != nil {
		if _, err = d.ahead.ReadAt(ctx, p, off); err == io.EOF {
			err = nil
		}
	} else {
		err = d.read(ctx, p, off)
	}
	if err != nil {
		if ctx.Err() != nil {
			d.p.hurry.Store(true)
		}
		return 0, err
	}
	return len(p), end
}

// ahead is how many slots are read ahead.
const ahead = 4

// newAhead reads a disk ahead that is read in order. What is read ahead stays in its slot.
func (d *Disk) newAhead() *readahead.Reader {
	within := func(n int, off int64) int { return int(max(0, min(int64(n), d.Size()-off))) }
	return readahead.New(readahead.Config{Window: link.SlotSize, Ahead: ahead, Keep: 2 * ahead, Eager: true, Size: d.Size,
		Read: func(ctx context.Context, p []byte, off int64) (int, error) {
			n := within(len(p), off)
			if err := d.read(ctx, p[:n], off); err != nil {
				return 0, err
			}
			if n < len(p) {
				return n, io.EOF
			}
			return n, nil
		},
		Fetch: func(ctx context.Context, n int, off int64) (p []byte, free func(), err error) {
			err = d.request(ctx, "reading", func(ctx context.Context) (err error) {
				p, free, err = d.p.slots.fetch(ctx, within(n, off), off)
				return err
			})
			return p, free, err
		}})
}

func (d *Disk) read(ctx context.Context, p []byte, off int64) error {
	return d.request(ctx, "reading", func(ctx context.Context) error { return d.p.slots.do(ctx, link.SlotRead, p, off) })
}

// writable says whether a range can be written.
func (d *Disk) writable(ctx context.Context, off, n int64) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !d.opt.Write || d.facts.ReadOnly:
		return driver.Errorf(driver.ErrReadOnly, "%s is open for reading only", d.opt.Subject)
	case off < 0 || n < 0:
		return driver.Errorf(driver.ErrRange, "a range of %d bytes at offset %d", n, off)
	case off > math.MaxInt64-n || off+n > link.Size:
		return driver.Errorf(driver.ErrTooLarge, "offset %d is beyond what a disk can have", off)
	}
	return nil
}

// change does f, which changes n bytes at off. The disk is made large enough before.
func (d *Disk) change(ctx context.Context, off, n int64, f func() error) error {
	end := off + n
	d.sizeMu.RLock()
	if end <= d.Size() {
		defer d.sizeMu.RUnlock()
		defer d.status.changes.Add(1)
		return f()
	}
	d.sizeMu.RUnlock()
	d.sizeMu.Lock()
	defer d.sizeMu.Unlock()
	defer d.status.changes.Add(1)
	if end > d.Size() && !d.facts.Grows {
		if err := d.resize(ctx, end, ""); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	d.size.Store(max(d.Size(), end))
	return nil
}

// WriteAt implements driver.Storage.
func (d *Disk) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := d.writable(ctx, off, int64(len(p))); err != nil || len(p) == 0 {
		return 0, err
	}
	err := d.change(ctx, off, int64(len(p)), func() error {
		return d.request(ctx, "writing", func(ctx context.Context) error { return d.p.slots.do(ctx, link.SlotWrite, p, off) })
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteZeroes implements driver.ZeroWriter.
func (d *Disk) WriteZeroes(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	if err := d.writable(ctx, off, n); err != nil {
		return err
	}
	if d.noZero.Load() {
		return driver.ErrUnsupported
	}
	err := d.change(ctx, off, n, func() error {
		return d.request(ctx, "writing zeroes", func(ctx context.Context) error {
			return d.c.WriteZeroes(ctx, off, n, client.ZeroOptions{NoHole: flags&driver.ZeroMayUnmap == 0})
		})
	})
	if errors.Is(err, driver.ErrUnsupported) {
		d.noZero.Store(true)
	}
	return err
}

// Discard implements driver.Discarder.
func (d *Disk) Discard(ctx context.Context, off, n int64) error {
	if err := d.writable(ctx, off, n); err != nil {
		return err
	}
	d.sizeMu.RLock()
	defer d.sizeMu.RUnlock()
	if n = min(n, d.Size()-off); n <= 0 {
		return nil
	}
	defer d.status.changes.Add(1)
	return d.request(ctx, "discarding", func(ctx context.Context) error { return d.c.Trim(ctx, off, n, false) })
}

// Resize implements driver.Resizer.
func (d *Disk) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if err := d.writable(ctx, 0, size); err != nil {
		return err
	}
	d.sizeMu.Lock()
	defer d.sizeMu.Unlock()
	if size == d.Size() {
		return nil
	}
	prealloc := opt.Prealloc
	if prealloc == driver.PreallocOff {
		prealloc = ""
	}
	return d.resize(ctx, size, prealloc)
}

// resize is called with sizeMu.
func (d *Disk) resize(ctx context.Context, size int64, prealloc driver.Prealloc) error {
	if err := d.Call(ctx, link.OpResize, link.Resize{Size: size, Prealloc: string(prealloc)}, nil); err != nil {
		return err
	}
	d.size.Store(size)
	d.status.changes.Add(1)
	return nil
}

// Flush implements driver.Node.
func (d *Disk) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil || !d.opt.Write || d.opt.NoFlush {
		return err
	}
	return d.request(ctx, "flushing", d.c.Flush)
}

// Close implements driver.Node.
func (d *Disk) Close(ctx context.Context) error {
	if d.ahead != nil {
		d.ahead.Close()
	}
	d.sizeMu.Lock() // reads and writes of the slots are over
	defer d.sizeMu.Unlock()
	if d.closed.Swap(true) {
		return errClosed()
	}
	lost := d.p.gave()
	// The context of the farewell does not tell that the work was cancelled; that of the last
	// request does. What is flushed is flushed with a context that has not ended.
	last := d.last.Load()
	cancelled := last != nil && (*last).Err() != nil
	err := error(nil)
	if lost == nil && !cancelled && d.p.idle(ctx, d.env) {
		if err = d.p.finish(ctx, link.OpRelease, !d.opt.Write); err == nil && d.p.keep(ctx, d.env) {
			return nil
		}
		d.p.abandon(err)
	} else {
		err = d.p.End(ctx, !d.opt.Write || cancelled)
	}
	if lost != nil && d.p.hurry.Load() || !d.opt.Write {
		err = nil // nothing is lost by it, or it was told when it happened
	}
	return err
}
