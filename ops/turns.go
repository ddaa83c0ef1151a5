package ops

import (
	"context"
	"sync"
)

// turns lets goroutines pass a point in the order of their sequence numbers.
// The zero value is ready, for numbers from 0 without gaps.
type turns struct {
	mu    sync.Mutex
	next  uint64
	early map[uint64]struct{} // done before their turn came
	waits map[uint64]chan struct{}
}

// wait blocks until all lower numbers are done.
func (t *turns) wait(ctx context.Context, seq uint64) error {
	t.mu.Lock()
	if t.next >= seq {
		t.mu.Unlock()
		return nil
	}
	if t.waits == nil {
		t.waits = map[uint64]chan struct{}{}
	}
	ch := make(chan struct{})
	t.waits[seq] = ch
	t.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// done says that seq has passed, or will not need its turn. It is called once
// for each number.
func (t *turns) done(seq uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seq != t.next {
		if t.early == nil {
			t.early = map[uint64]struct{}{}
		}
		t.early[seq] = struct{}{}
		return
	}
	for {
		t.next++
		if _, ok := t.early[t.next]; !ok {
			break
		}
		delete(t.early, t.next)
	}
	if ch := t.waits[t.next]; ch != nil {
		delete(t.waits, t.next)
		close(ch)
	}
}
