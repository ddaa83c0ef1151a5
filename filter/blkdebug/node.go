package blkdebug

import (
	"context"
	"slices"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
)

type node struct {
	pass.Node
	limits driver.Limits
	name   string // "" if the options say more than a name can

	mu    sync.Mutex
	state int64
	rules []*rule
	armed []*rule // the last one first

	breaks breaks
}

var _ driver.EventSink = (*node)(nil)

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return n.limits }

// Filename implements driver.Named.
func (n *node) Filename() string { return n.name }

// RaiseEvent implements driver.EventSink.
func (n *node) RaiseEvent(name string) {
	n.applyRules(name)
	n.breaks.at(name)
}

func (n *node) applyRules(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	state, armed := n.state, false
	for _, r := range n.rules {
		if r.event != name || r.state != 0 && r.state != n.state {
			continue
		}
		if r.set {
			state = r.newState
			continue
		}
		if !armed {
			n.armed, armed = nil, true
		}
		n.armed = append([]*rule{r}, n.armed...)
	}
	n.state = state
}

// check returns the error that a request of length bytes at off has to fail with.
func (n *node) check(t ioType, off, length int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.armed {
		if r.types&t == 0 || r.offset >= 0 && (r.offset < off || r.offset >= off+length) {
			continue
		}
		if r.once {
			same := func(o *rule) bool { return o == r }
			n.armed = slices.DeleteFunc(slices.Clone(n.armed), same)
			n.rules = slices.DeleteFunc(n.rules, same)
		}
		if r.errno == 0 {
			return nil
		}
		return r.errno
	}
	return nil
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.check(ioRead, off, int64(len(p))); err != nil {
		return 0, err
	}
	return n.Node.ReadAt(ctx, p, off)
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	n.RaiseEvent("pwritev")
	defer n.RaiseEvent("pwritev_done")
	if err := n.check(ioWrite, off, int64(len(p))); err != nil {
		return 0, err
	}
	return n.Node.WriteAt(ctx, p, off)
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	n.RaiseEvent("pwritev_zero")
	defer n.RaiseEvent("pwritev_done")
	if err := n.check(ioWriteZeroes, off, length); err != nil {
		return err
	}
	return n.Node.WriteZeroes(ctx, off, length, flags)
}

// Discard implements driver.Discarder.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	if err := n.check(ioDiscard, off, length); err != nil {
		return err
	}
	return n.Node.Discard(ctx, off, length)
}

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error {
	n.RaiseEvent("flush_to_disk")
	if err := n.check(ioFlush, 0, 0); err != nil {
		return err
	}
	return n.Node.Flush(ctx)
}

// CheckStatus implements driver.StatusChecker.
func (n *node) CheckStatus(off, length int64) error { return n.check(ioBlockStatus, off, length) }

// Map implements driver.Storage.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	if err := n.CheckStatus(off, length); err != nil {
		return driver.Extent{}, err
	}
	return n.Node.Map(ctx, off, length)
}
