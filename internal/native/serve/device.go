package serve

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"

	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// device is the disk that is open, as the NBD server wants it.
type device struct {
	*session
	open atomic.Pointer[Disk] // one after the other; none while nothing is under way
}

func newDevice(s *session, disk Disk) *device {
	d := &device{session: s}
	d.open.Store(&disk)
	return d
}

func (d *device) disk() Disk { return *d.open.Load() }

var (
	_ server.Writer         = (*device)(nil)
	_ server.ZeroWriter     = (*device)(nil)
	_ server.Trimmer        = (*device)(nil)
	_ server.StatusReporter = (*device)(nil)
	_ server.Limiter        = (*device)(nil)
)

// Size implements server.Device.
func (*device) Size() int64 { return link.Size }

// Limits implements server.Limiter.
func (*device) Limits() wire.BlockSize {
	return wire.BlockSize{Min: 1, Preferred: 4096, Max: link.Piece}
}

// note keeps the reason of a failure, of which NBD has a few only.
func (d *device) note(op string, err error) error {
	if err != nil {
		d.mu.Lock()
		d.why = problem(op, err)
		d.mu.Unlock()
	}
	return err
}

// ReadAt implements server.Device.
func (d *device) ReadAt(_ context.Context, p []byte, off int64) error {
	return d.note("read", d.disk().ReadAt(p, off))
}

// WriteAt implements server.Writer.
func (d *device) WriteAt(_ context.Context, p []byte, off int64, fua bool) error {
	err := d.disk().WriteAt(p, off)
	if err == nil && fua {
		err = d.disk().Flush()
	}
	return d.note("write", err)
}

// Flush implements server.Writer.
func (d *device) Flush(context.Context) error { return d.note("flush", d.disk().Flush()) }

// WriteZeroes implements server.ZeroWriter.
func (d *device) WriteZeroes(_ context.Context, off, n int64, flags server.ZeroFlags) error {
	err := d.disk().WriteZeroes(off, n, flags&server.ZeroNoHole != 0)
	if errors.Is(err, errors.ErrUnsupported) {
		return wire.ENOTSUP // no failure to tell of: cowl writes zeroes then
	}
	return d.note("write zeroes", err)
}

// Trim implements server.Trimmer.
func (d *device) Trim(_ context.Context, off, n int64) error {
	err := d.disk().Discard(off, n)
	if errors.Is(err, errors.ErrUnsupported) {
		return wire.ENOTSUP
	}
	return d.note("discard", err)
}

// Contexts implements server.StatusReporter. Of a disk that does not tell of holes (link.Facts) cowl does not ask.
func (*device) Contexts() []string { return []string{wire.ContextAllocation} }

// BlockStatus implements server.StatusReporter.
func (d *device) BlockStatus(_ context.Context, name string, off, n int64, yield func(length int64, flags uint64) bool) error {
	if name != wire.ContextAllocation {
		return syscall.EINVAL
	}
	return d.note("block status", d.disk().Extents(off, n, func(length int64, data bool) bool {
		if data {
			return yield(length, 0)
		}
		return yield(length, wire.StateHole|wire.StateZero)
	}))
}
