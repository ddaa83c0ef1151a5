package iscsi

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
)

const (
	// maxLosses is how often one command may see its connection lost.
	maxLosses = 5
	// firstPause is the first one between two attempts to connect; each is twice as long
	// as that before, up to lastPause.
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// Session is a session with a target. It is safe for use by several goroutines.
type Session struct {
	cfg  Config
	isid [6]byte
	life context.Context // of the goroutine that connects again
	end  context.CancelFunc

	mu         sync.Mutex
	conn       *conn
	connecting chan struct{} // not nil: a connection is being made; closed after that
	err        error         // why there will be no other connection
	ready      Ready         // Config.Ready, or what Reuse was given
}

// Open logs in to a target. The caller closes the session.
func Open(ctx context.Context, cfg Config) (*Session, error) {
	if cfg.TargetCHAP != nil && cfg.CHAP == nil {
		return nil, message.Errorf(nil, "a target can be verified (TargetCHAP) only by an initiator that has CHAP credentials itself")
	}
	s := &Session{cfg: cfg, isid: newISID(), ready: cfg.Ready}
	c, moved, err := connect(ctx, &s.cfg, s.isid, false)
	if err != nil {
		return nil, err
	}
	if moved != "" {
		s.cfg.Address = moved
	}
	s.conn = c
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// newISID makes a random identifier of a session (RFC 7143, 11.12.5).
func newISID() (isid [6]byte) {
	_, _ = rand.Read(isid[:]) // never fails
	isid[0] = 0x80
	return isid
}

// Do implements Doer.
func (s *Session) Do(ctx context.Context, cmd *Command) error {
	var r retry
	for losses := 0; ; {
		c, err := s.current(ctx)
		if err != nil {
			return err
		}
		err = c.do(ctx, cmd)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrLost):
			s.drop(c)
			if losses++; losses > maxLosses {
				return message.Errorf(nil, "the connection was lost %d times: %w", losses, err)
			}
			continue
		}
		if err := r.wait(ctx, err); err != nil {
			return err
		}
	}
}

// direct does commands on one connection.
type direct struct{ c *conn }

// Do implements Doer.
func (d direct) Do(ctx context.Context, cmd *Command) error {
	var r retry
	for {
		err := d.c.do(ctx, cmd)
		if err == nil {
			return nil
		}
		if err := r.wait(ctx, err); err != nil {
			return err
		}
	}
}

// current returns the connection, and waits while one is being made.
func (s *Session) current(ctx context.Context) (*conn, error) {
	for {
		s.mu.Lock()
		c, wait, err := s.conn, s.connecting, s.err
		s.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case c != nil:
			return c, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// drop gives a lost connection up and begins to make another one.
func (s *Session) drop(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return
	}
	s.conn = nil
	if s.err != nil {
		return
	}
	if s.cfg.Reconnect == 0 {
		s.err = c.reason()
		return
	}
	s.connecting = make(chan struct{})
	go s.reconnect(c.reason())
}

// reconnect makes another connection.
func (s *Session) reconnect(reason error) {
	ctx, cancel := context.WithTimeoutCause(s.life, s.cfg.Reconnect, ErrTimeout)
	defer cancel()
	cfg := s.cfg
	var c *conn
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		var moved string
		var err error
		c, moved, err = connect(ctx, &cfg, s.isid, false)
		if ready := s.whenMade(); err == nil && ready != nil {
			if err = ready(ctx, direct{c}); err != nil {
				c.close(ctx)
				c = nil
			}
		}
		if err == nil {
			if moved != "" {
				s.cfg.Address = moved
			}
			break
		}
		if ctx.Err() == nil || !errors.Is(err, ctx.Err()) && !errors.Is(err, ErrTimeout) {
			reason = err
		}
		if errors.Is(err, ErrUnverified) || errors.Is(err, ErrProtocol) || !sleep(ctx, pause) {
			reason = message.Errorf(ErrLost, "the connection to the target is lost, and cannot be made again: %w", reason)
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil: // closed
		if c != nil {
			go c.close(context.Background())
		}
	case c == nil:
		s.err = reason
	default:
		s.conn = c
	}
	close(s.connecting)
	s.connecting = nil
}

func (s *Session) whenMade() Ready {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// Reuse hands the session to another user: ready takes the place of Config.Ready. It
// returns false, and changes nothing, if the session is not as good as a new one: its
// connection is lost, or the target still has commands.
func (s *Session) Reuse(ready Ready) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || !s.conn.idle() {
		return false
	}
	s.ready = ready
	return true
}

// sleep returns false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Close logs out. It waits for a moment at most. Commands under way fail.
func (s *Session) Close(ctx context.Context) error {
	s.mu.Lock()
	c, wait := s.conn, s.connecting
	s.conn = nil
	if s.err == nil {
		s.err = ErrClosed
	}
	s.mu.Unlock()
	s.end()
	if wait != nil {
		<-wait // it ends with s.life
	}
	if c != nil {
		c.close(ctx)
	}
	return nil
}
