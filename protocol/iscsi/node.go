package iscsi

import (
	"context"
	"errors"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/readahead"
	"github.com/cowl-disk/cowl/iscsi"
)

// node is an open logical unit. What is not atomic and has no lock is constant after open.
type node struct {
	opt      *openOptions
	login    login // of session
	env      *driver.Env
	session  *iscsi.Session
	lun      iscsi.LUN
	write    bool
	noFlush  bool
	capacity iscsi.Capacity
	mode     iscsi.Mode
	limits   iscsi.Limits
	thin     iscsi.Provisioning
	identity string
	// roundTrip is how long the first command took.
	roundTrip time.Duration

	noWriteSame, noStatus atomic.Bool // the target refused it
	journal               journal
	status                statusCache
	ahead                 *readahead.Reader // nil: nothing is read ahead
}

var (
	_ driver.Storage    = (*node)(nil)
	_ driver.ZeroWriter = (*node)(nil)
	_ driver.Discarder  = (*node)(nil)
	_ driver.Resizer    = (*node)(nil)
	_ driver.Named      = (*node)(nil)
	_ driver.Stater     = (*node)(nil)
	_ driver.Describer  = (*node)(nil)
)

// Size implements driver.Node.
func (n *node) Size() int64 { return int64(n.capacity.Blocks) * n.block() }

func (n *node) block() int64 { return int64(n.capacity.BlockSize) }

// Traits implements driver.Node.
func (*node) Traits() driver.Traits { return driver.Traits{FixedSize: true, Remote: true} }

// Filename implements driver.Named.
func (n *node) Filename() string { return n.opt.name() }

// State implements driver.Stater: a unit is never dirty.
func (*node) State(context.Context) (*driver.State, error) { return &driver.State{}, nil }

// Bounds of what is taken for a cluster, in bytes, as with QEMU.
const (
	minCluster = 4 << 10
	maxCluster = 16 << 20
)

// Info implements driver.Describer.
func (n *node) Info(context.Context) (*driver.Info, error) {
	if size := int64(n.limits.UnmapGranularity) * n.block(); size >= minCluster && size <= maxCluster {
		return &driver.Info{ClusterSize: size}, nil
	}
	return &driver.Info{}, nil
}

// long says whether commands need 16 bytes.
func (n *node) long() bool { return n.capacity.Blocks > 1<<32 }

// maxBlocks is how many blocks a command takes at most.
func (n *node) maxBlocks() int64 {
	most := int64(1<<16 - 1)
	if n.long() {
		most = 1<<32 - 1
	}
	if m := int64(n.limits.MaxTransfer); m > 0 {
		most = min(most, m)
	}
	return most
}

// maxBytes bounds limits that are told in bytes.
const maxBytes = 1 << 31

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits {
	block := n.block()
	l := driver.Limits{RequestAlignment: block, ZeroAlignment: block, DiscardAlignment: block}
	if most := n.maxBlocks() * block; most < maxBytes {
		l.MaxTransfer = most
	}
	if opt := int64(n.limits.OptTransfer) * block; opt > 0 && opt < maxBytes {
		l.OptTransfer = 1 << (bits.Len64(uint64(opt)) - 1)
	}
	unit := int64(n.limits.UnmapGranularity) * block
	if unit > maxBytes || unit&(unit-1) != 0 {
		unit = 0
	}
	if n.thin.Unmap {
		l.MaxDiscard = int64(n.limits.MaxUnmap) * block
		l.DiscardAlignment = max(unit, block)
	}
	if n.thin.WriteSame16 {
		l.ZeroAlignment = max(unit, block)
	}
	most := n.maxBlocks()
	if m := n.limits.MaxWriteSame; m > 0 {
		most = int64(min(uint64(most), m))
	}
	l.MaxZero = max(most*block&^(l.ZeroAlignment-1), l.ZeroAlignment)
	return l
}

// piece is how many bytes one command moves, where a request is longer: several at a time
// keep the connection and the target busy.
const piece = 256 << 10

// pieces calls f for the parts of a range, concurrently. The first error counts.
func (n *node) pieces(p []byte, off int64, f func(p []byte, t iscsi.Transfer) error) error {
	block := n.block()
	size := max(min(piece, n.maxBlocks()*block)/block, 1) * block
	one := func(p []byte, off int64) error {
		return f(p, iscsi.Transfer{LBA: uint64(off / block), Blocks: uint32(int64(len(p)) / block), Long: n.long()})
	}
	if int64(len(p)) <= size {
		return one(p, off)
	}
	var wg sync.WaitGroup
	var once sync.Once
	var failed error
	for at := int64(0); at < int64(len(p)); at += size {
		part := p[at:min(at+size, int64(len(p)))]
		wg.Go(func() {
			if err := one(part, off+at); err != nil {
				once.Do(func() { failed = err })
			}
		})
	}
	wg.Wait()
	return failed
}

// fetch reads from the unit. The range is within it.
func (n *node) fetch(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.pieces(p, off, func(p []byte, t iscsi.Transfer) error { return n.lun.Read(ctx, p, t) }); err != nil {
		return 0, err
	}
	return len(p), nil
}

// sawData notes where what Map last called data ends.
func (n *node) sawData(end int64) {
	if n.ahead != nil {
		n.ahead.Until(end)
	}
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	size := n.Size()
	if off >= size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > size-off {
		p, eof = p[:size-off], io.EOF
	}
	if len(p) == 0 {
		return 0, eof
	}
	var err error
	if n.ahead != nil {
		_, err = n.ahead.ReadAt(ctx, p, off)
	} else {
		_, err = n.fetch(ctx, p, off)
	}
	if err != nil {
		return 0, n.failed(ctx, err, "iSCSI READ failed: %d bytes at offset %d: %w", len(p), off)
	}
	return len(p), eof
}

// writable refuses requests beyond the end and on units that are open for reading.
func (n *node) writable(ctx context.Context, off, length int64) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !n.write:
		return driver.Errorf(driver.ErrReadOnly, "the LUN is open for reading only")
	case off < 0 || length > n.Size()-off:
		return driver.Errorf(driver.ErrRange, "the LUN has %d bytes and cannot grow: %w", n.Size(), driver.ErrNoSpace)
	}
	return nil
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.writable(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	defer n.status.changed()
	err := n.pieces(p, off, func(p []byte, t iscsi.Transfer) error {
		return n.change(ctx, &entry{at: t, data: p}, func(e *entry) error { return n.lun.Write(ctx, e.data, t) })
	})
	if err != nil {
		return 0, n.failed(ctx, err, "iSCSI WRITE failed: %d bytes at offset %d: %w", len(p), off)
	}
	return len(p), nil
}

// failed words the error of a request about length bytes at off.
func (n *node) failed(ctx context.Context, err error, format string, length, off any) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return driver.Errorf(kindOf(err), format, length, off, err)
}

// kindOf is the kind of an error, nil if there is none.
func kindOf(err error) error {
	var sense *iscsi.SenseError
	switch {
	case errors.As(err, &sense) && sense.NoSpace():
		return driver.ErrNoSpace
	case errors.As(err, &sense) && sense.Key == iscsi.SenseDataProtect:
		return driver.ErrReadOnly
	case errors.Is(err, iscsi.ErrTimeout):
		return driver.ErrTimeout
	}
	return nil
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	if err := n.writable(ctx, off, length); err != nil {
		return err
	}
	// A unit of which nothing is known to be quick is not asked by those that want it quick.
	unmap := flags&driver.ZeroMayUnmap != 0 && n.thin.ReadsZero && n.capacity.ReadsZero && (n.thin.WriteSame16 || n.thin.WriteSame10)
	block := n.block()
	if n.noWriteSame.Load() || off%block != 0 || length%block != 0 || flags&driver.ZeroNoFallback != 0 && !unmap {
		return driver.ErrUnsupported
	}
	t := iscsi.Transfer{LBA: uint64(off / block), Blocks: uint32(length / block), Long: n.long() || unmap && !n.thin.WriteSame10}
	defer n.status.changed()
	err := n.change(ctx, &entry{at: t, zero: true, unmap: unmap}, func(e *entry) error { return e.write(ctx, n.lun, n.block()) })
	switch {
	case err == nil:
		return nil
	case iscsi.IsUnsupported(err):
		n.noWriteSame.Store(true)
		return driver.ErrUnsupported
	}
	return n.failed(ctx, err, "iSCSI WRITE SAME failed: %d bytes at offset %d: %w", length, off)
}

// Discard implements driver.Discarder.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	if err := n.writable(ctx, off, length); err != nil {
		return err
	}
	block := n.block()
	if !n.thin.Unmap || off%block != 0 || length%block != 0 {
		return driver.ErrUnsupported
	}
	defer n.status.changed()
	t := iscsi.Transfer{LBA: uint64(off / block), Blocks: uint32(length / block)}
	err := n.change(ctx, &entry{at: t, discard: true}, func(e *entry) error { return e.write(ctx, n.lun, block) })
	var sense *iscsi.SenseError
	if errors.As(err, &sense) {
		return driver.ErrUnsupported // it was a hint
	}
	if err != nil {
		return n.failed(ctx, err, "iSCSI UNMAP failed: %d bytes at offset %d: %w", length, off)
	}
	return nil
}

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil || !n.write || n.noFlush {
		return err
	}
	return n.sync(ctx)
}

// Resize implements driver.Resizer: units cannot be resized.
func (n *node) Resize(_ context.Context, size int64, opt driver.ResizeOptions) error {
	switch {
	case opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff:
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", opt.Prealloc)
	case opt.Exact && size != n.Size():
		return driver.Errorf(driver.ErrUnsupported, "cannot resize iSCSI devices")
	case size > n.Size():
		return driver.Errorf(driver.ErrUnsupported, "cannot grow iSCSI devices")
	}
	return nil
}

// Close implements driver.Node. The next request of the same operation gets the session.
func (n *node) Close(ctx context.Context) error {
	if n.ahead != nil {
		n.ahead.Close()
	}
	if n.keep(ctx) {
		return nil
	}
	err := n.session.Close(ctx)
	n.journal.wait()
	return err
}
