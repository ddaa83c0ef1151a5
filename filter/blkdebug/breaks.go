package blkdebug

import (
	"context"
	"slices"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
)

// breaks holds requests at events. The zero value holds none.
type breaks struct {
	mu   sync.Mutex
	set  []breakpoint // the last one first
	held []*held      // the last one first
	// changed is closed, and made anew, when a request is held.
	changed chan struct{}
}

type breakpoint struct {
	event, tag string
	report     func(text string)
}

// held is a request that waits.
type held struct {
	breakpoint
	goOn chan struct{}
}

var _ driver.Breaker = (*node)(nil)

// at holds the calling request if there is a breakpoint for the event. A breakpoint holds
// one request, and is forgotten then.
func (b *breaks) at(event string) {
	b.mu.Lock()
	i := slices.IndexFunc(b.set, func(p breakpoint) bool { return p.event == event })
	if i < 0 {
		b.mu.Unlock()
		return
	}
	h := &held{b.set[i], make(chan struct{})}
	b.set = slices.Delete(b.set, i, i+1)
	b.held = append([]*held{h}, b.held...)
	h.report("blkdebug: Suspended request '" + h.tag + "'")
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
	b.mu.Unlock()
	<-h.goOn
}

// resume lets the last held request with a tag go on, and says whether there is one.
func (b *breaks) resume(tag string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.held, func(h *held) bool { return h.tag == tag })
	if i < 0 {
		return false
	}
	h := b.held[i]
	b.held = slices.Delete(b.held, i, i+1)
	h.report("blkdebug: Resuming request '" + tag + "'")
	close(h.goOn)
	return true
}

// Release implements driver.Breaker.
func (n *node) Release() {
	b := &n.breaks
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.held {
		close(h.goOn)
	}
	b.set, b.held = nil, nil
}

// Break implements driver.Breaker.
func (n *node) Break(event, tag string, report func(text string)) error {
	if !slices.Contains(events(), event) {
		return syscall.ENOENT
	}
	b := &n.breaks
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set = append([]breakpoint{{event, tag, report}}, b.set...)
	return nil
}

// RemoveBreak implements driver.Breaker.
func (n *node) RemoveBreak(tag string) error {
	b := &n.breaks
	b.mu.Lock()
	before := len(b.set)
	b.set = slices.DeleteFunc(b.set, func(p breakpoint) bool { return p.tag == tag })
	found := len(b.set) < before
	b.mu.Unlock()
	for b.resume(tag) {
		found = true
	}
	if !found {
		return syscall.ENOENT
	}
	return nil
}

// Resume implements driver.Breaker.
func (n *node) Resume(tag string) error {
	if !n.breaks.resume(tag) {
		return syscall.ENOENT
	}
	return nil
}

// WaitBreak implements driver.Breaker.
func (n *node) WaitBreak(ctx context.Context, tag string) error {
	b := &n.breaks
	for {
		b.mu.Lock()
		if slices.ContainsFunc(b.held, func(h *held) bool { return h.tag == tag }) {
			b.mu.Unlock()
			return nil
		}
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
