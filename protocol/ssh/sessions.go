package ssh

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
)

var errNodeClosed = errors.New("the node is closed")

// ChangedError says that a file is no longer what it was when the disk was opened.
type ChangedError struct{ size, was int64 }

func (e *ChangedError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *ChangedError) Template() (string, []any) {
	return "the file on the server was changed by another program while the connection was lost: it has %d bytes and had %d", []any{e.size, e.was}
}

// first is connect, over a connection that an earlier request has left if there is one.
func (n *node) first(ctx context.Context) (s *session, size int64, modified time.Time, err error) {
	if s = n.d.take(); s != nil {
		s, size, modified, err = n.openOn(ctx, s)
		if err == nil || ctx.Err() != nil || !passing(err) {
			return s, size, modified, err
		}
	}
	return n.connect(ctx)
}

// connect makes a connection with the file open.
func (n *node) connect(ctx context.Context) (s *session, size int64, modified time.Time, err error) {
	if s, err = n.d.newSession(ctx); err != nil {
		return nil, 0, time.Time{}, err
	}
	return n.openOn(ctx, s)
}

// openOn opens the file on a connection, which it ends if that fails.
func (n *node) openOn(ctx context.Context, s *session) (_ *session, size int64, modified time.Time, err error) {
	if err = s.open(ctx, n.d.o.Path, n.flags()); err != nil {
		err = openError(n.d.o.Path, err)
	} else {
		var st os.FileInfo
		asked := time.Now()
		err = s.do(ctx, true, func() (err error) { st, err = s.file.Stat(); return err })
		s.measured(time.Since(asked))
		if err == nil {
			return s, st.Size(), st.ModTime(), nil
		}
		err = driver.Errorf(nil, "failed to read remote file attributes: %w", err)
	}
	if reason := s.reason(); reason != nil && ctx.Err() == nil {
		err = openError(n.d.o.Path, reason)
	}
	s.fail(errClosed)
	return nil, 0, time.Time{}, err
}

// prune drops lost connections. It is called with mu.
func (n *node) prune() error {
	if n.closed {
		return errNodeClosed
	}
	n.sessions = slices.DeleteFunc(n.sessions, func(s *session) bool {
		reason := s.reason()
		if reason != nil {
			n.reason = reason
		}
		return reason != nil
	})
	if n.write && len(n.sessions) == 0 && n.lost == nil {
		n.lost = n.reason
	}
	return n.failed
}

// session returns the connection with the fewest requests. It makes one more in the
// background if all have enough to do, and a new one first if there is none.
func (n *node) session(ctx context.Context) (*session, error) {
	for {
		n.mu.Lock()
		if err := n.prune(); err != nil {
			n.mu.Unlock()
			return nil, err
		}
		if len(n.sessions) > 0 {
			s := slices.MinFunc(n.sessions, func(a, b *session) int { return int(a.busy.Load() - b.busy.Load()) })
			if n.wantMore() {
				n.more()
			}
			n.mu.Unlock()
			return s, nil
		}
		if wait := n.dialed; wait != nil {
			n.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		wait := make(chan struct{})
		n.dialed = wait
		n.mu.Unlock()
		err := n.again(ctx)
		n.mu.Lock()
		n.dialed = nil
		n.mu.Unlock()
		close(wait)
		if err != nil {
			return nil, err
		}
	}
}

// again makes a connection to the same file as before.
func (n *node) again(ctx context.Context) error {
	s, size, modified, err := n.connect(ctx)
	if err != nil {
		return err
	}
	if !n.write && (size != n.Size() || !modified.Equal(n.modified)) {
		s.fail(errClosed)
		return &ChangedError{size, n.Size()}
	}
	if n.write {
		if err := n.sameSystem(ctx, s, size); err != nil {
			s.fail(errClosed)
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		s.fail(errClosed)
		return errNodeClosed
	}
	n.sessions = append(n.sessions, s)
	return nil
}

// wantMore says whether all connections have enough to do, those counted that are being made: each takes a
// dozen round trips, so that they are made side by side. It is called with mu.
func (n *node) wantMore() bool {
	busy, all := int64(0), len(n.sessions)+n.dialing
	for _, s := range n.sessions {
		busy += s.busy.Load()
	}
	return all < n.most && busy >= int64(perConnection*all)
}

// more makes one more connection in the background. It is called with mu.
func (n *node) more() {
	n.dialing++
	n.dials.Go(func() {
		err := n.again(n.ctx)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.dialing--
		if err != nil {
			n.most = max(1, len(n.sessions)) // the server wants no more
		}
	})
}
