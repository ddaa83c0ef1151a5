package clustertable

import (
	"context"
	"sync"
)

// Change is a range of the disk, in units of the caller (clusters, blocks,
// grains), whose mapping is being changed. The lock guards it.
type Change struct {
	First, End int64 // units [First, End)

	ended chan struct{} // made by the first who waits
}

// Changes is the list of changes that are pending. The number of them is that of
// the requests under way, so that a walk over the list is the fastest look-up.
type Changes struct {
	lock *sync.RWMutex
	list []*Change
}

// NewChanges returns an empty list, guarded by lock.
func NewChanges(lock *sync.RWMutex) *Changes { return &Changes{lock: lock} }

// Conflict returns a pending change of a unit in [first, end), or nil. The lock is
// held.
func (l *Changes) Conflict(first, end int64) *Change {
	for _, c := range l.list {
		if c.First < end && first < c.End {
			return c
		}
	}
	return nil
}

// Add lists a change. The lock is held exclusively since Conflict returned nil for
// its range. The caller may lower c.End later, with the lock held exclusively.
func (l *Changes) Add(c *Change) { l.list = append(l.list, c) }

// Reserve waits until no change of [first, end) is pending and lists one, which
// the caller removes.
func (l *Changes) Reserve(ctx context.Context, first, end int64) (*Change, error) {
	for {
		l.lock.Lock()
		other := l.Conflict(first, end)
		if other == nil {
			c := &Change{First: first, End: end}
			l.Add(c)
			l.lock.Unlock()
			return c, nil
		}
		if err := l.wait(ctx, other); err != nil {
			return nil, err
		}
	}
}

// Wait waits until the change that is pending for unit u ends, if there is one.
// Another one may be pending when it returns.
func (l *Changes) Wait(ctx context.Context, u int64) error {
	l.lock.Lock()
	c := l.Conflict(u, u+1)
	if c == nil {
		l.lock.Unlock()
		return nil
	}
	return l.wait(ctx, c)
}

// wait waits for the end of c. The lock is held exclusively; it is released.
func (l *Changes) wait(ctx context.Context, c *Change) error {
	if c.ended == nil {
		c.ended = make(chan struct{})
	}
	ended := c.ended
	l.lock.Unlock()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Remove ends a change, whatever became of it, and wakes all who wait for it.
func (l *Changes) Remove(c *Change) {
	l.lock.Lock()
	for i, other := range l.list {
		if other == c {
			last := len(l.list) - 1
			l.list[i] = l.list[last]
			l.list[last] = nil
			l.list = l.list[:last]
			break
		}
	}
	ended := c.ended
	l.lock.Unlock()
	if ended != nil {
		close(ended)
	}
}
