package ssh

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	// inFlight is how many requests of one read or write are under way at once.
	inFlight = 64
	// plainPacket is what every server takes in one request, in bytes, largePacket what
	// OpenSSH says to take since 8.5 (limits@openssh.com), less the header of an answer.
	plainPacket = 32 << 10
	largePacket = 128 << 10
	// grace is how long a request may go on after its context has ended. One that ends
	// in that time leaves the connection usable.
	grace = 250 * time.Millisecond
	// farewell bounds the closing of a file.
	farewell = 2 * time.Second
	// keepAlive is a request that servers answer, if only to refuse it.
	keepAlive = "keepalive@openssh.com"
)

// session is one connection with one open file.
type session struct {
	link  *link
	sftp  *sftp.Client
	file  *sftp.File
	limit time.Duration // without progress; 0: for ever

	window *window // of the pieces of writes

	busy atomic.Int64 // requests under way
	slow atomic.Int64 // those of them whose answer may take as long as the server likes

	mu   sync.Mutex
	lost error
	end  chan struct{} // closed with lost
}

// StatusError is what a server answers to a request that fails.
type StatusError struct {
	Code uint32 // of SFTP
	text string
	err  error
}

func (e *StatusError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *StatusError) Template() (string, []any) {
	return "the SFTP server answers: %s (sftp error code: %d)", []any{e.text, e.Code}
}

// Unwrap tells the kind.
func (e *StatusError) Unwrap() error { return e.err }

// Status codes of SFTP, section 7 of the draft.
const (
	statusNoSuchFile       = 2
	statusPermissionDenied = 3
	statusFailure          = 4
	statusNoConnection     = 6
	statusConnectionLost   = 7
	statusUnsupported      = 8
)

// statusError makes a StatusError of an error of the library, nil if the server did not
// answer with one.
func statusError(err error) error {
	var se *sftp.StatusError
	switch {
	case errors.Is(err, sftp.ErrSSHFxConnectionLost), errors.Is(err, sftp.ErrSSHFxNoConnection):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &StatusError{statusNoSuchFile, "no such file", driver.ErrNotExist}
	case errors.Is(err, fs.ErrPermission):
		return &StatusError{statusPermissionDenied, "permission denied", fs.ErrPermission}
	case !errors.As(err, &se) || se.Code == statusConnectionLost || se.Code == statusNoConnection:
		return nil
	}
	e := &StatusError{Code: se.Code, text: "failure"}
	switch se.Code {
	case statusFailure:
	case statusUnsupported:
		e.text, e.err = "operation unsupported", driver.ErrUnsupported
	default:
		e.text = se.FxCode().Error()
	}
	return e
}

// newSession connects and starts SFTP, without a file.
func (d *dialer) newSession(ctx context.Context) (*session, error) {
	l, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{link: l, limit: d.o.timeout(), end: make(chan struct{})}
	go func() {
		err := l.client.Wait()
		s.fail(driver.Errorf(nil, "the connection to the server was lost: %w", err))
	}()
	go s.watch()
	var refused error // by the server, whose connection is fine
	err = s.do(ctx, true, func() error { refused = s.start(); return nil })
	if err == nil && refused != nil {
		if err = s.reason(); err == nil {
			err = refused
		}
	}
	if err != nil {
		s.fail(errClosed)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, driver.Errorf(driver.ErrInvalid, "failed to initialize sftp handle: %w", err)
	}
	return s, nil
}

func (s *session) start() error {
	ch, err := s.link.client.NewSession()
	if err != nil {
		return err
	}
	in, err := ch.StdinPipe()
	if err != nil {
		return err
	}
	out, err := ch.StdoutPipe()
	if err != nil {
		return err
	}
	if err := ch.RequestSubsystem("sftp"); err != nil {
		return err
	}
	c, err := sftp.NewClientPipe(out, in, sftp.UseConcurrentWrites(true), sftp.MaxConcurrentRequestsPerFile(inFlight),
		sftp.MaxPacketUnchecked(plainPacket))
	if err != nil {
		return err
	}
	if _, large := c.HasExtension("limits@openssh.com"); large {
		if err := sftp.MaxPacketUnchecked(largePacket)(c); err != nil {
			return err
		}
	}
	s.sftp = c
	return nil
}

// open opens the file of the session.
func (s *session) open(ctx context.Context, path string, flags int) error {
	return s.do(ctx, true, func() (err error) {
		s.file, err = s.sftp.OpenFile(path, flags)
		return err
	})
}

// measured takes the time that an answer took, for that of a round trip.
func (s *session) measured(trip time.Duration) { s.window = newWindow(trip) }

// writeAt writes all of p to the file, in pieces of which the window bounds how many are under way.
func (s *session) writeAt(p []byte, off int64) error {
	g, ctx := errgroup.WithContext(context.Background())
	for len(p) > 0 && ctx.Err() == nil {
		piece, at := p[:min(len(p), pieceSize)], off
		p, off = p[len(piece):], off+int64(len(piece))
		s.window.enter()
		g.Go(func() error {
			sent := time.Now()
			defer func() { s.window.leave(sent, time.Now()) }()
			return s.writePiece(piece, at)
		})
	}
	return g.Wait()
}

func (s *session) writePiece(p []byte, off int64) error {
	n, err := s.file.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// remove removes a file; it does not wait longer for it than for the end of a session.
func (s *session) remove(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	return s.do(ctx, true, func() error { return s.sftp.Remove(path) })
}

var errClosed = errors.New("the connection is closed")

// fail ends the connection, for a reason.
func (s *session) fail(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = reason
		close(s.end)
		s.link.close()
	}
}

// reason is why the connection is lost, nil if it is not.
func (s *session) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// close closes the file, so that the server tells of what it could not write, and ends
// the connection.
func (s *session) close(ctx context.Context) error {
	err := s.closeFile(ctx)
	s.fail(errClosed)
	return err
}

// closeFile closes the file, without waiting for long.
func (s *session) closeFile(ctx context.Context) error {
	if s.file == nil || s.reason() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	err := s.do(ctx, true, s.file.Close)
	if ctx.Err() != nil {
		s.fail(errClosed)
		return nil // what was flushed is safe; nobody waits for the rest
	}
	s.file = nil
	return err
}

// do runs one call of the SFTP library. If ctx ends first, the connection is closed
// unless the call ends soon. slow is for calls whose answer may take long: the server
// only has to show that it is alive.
func (s *session) do(ctx context.Context, slow bool, call func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.busy.Add(1)
	defer s.busy.Add(-1)
	if slow {
		s.slow.Add(1)
		defer s.slow.Add(-1)
	}
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return s.callError(err)
	case <-ctx.Done():
	}
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
		s.fail(errClosed)
		<-done // the library lets go at once: nothing of the caller's is used any more
	}
	return ctx.Err()
}

// callError is what an error of the library means: an answer of the server, io.EOF, or
// the loss of the connection.
func (s *session) callError(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if se := statusError(err); se != nil {
		return se
	}
	s.fail(driver.Errorf(nil, "the connection to the server was lost: %w", err))
	return s.reason()
}

// watch closes the connection when nothing moves on it for the time-out although
// requests are under way.
func (s *session) watch() {
	if s.limit == 0 {
		return
	}
	tick := time.NewTicker(max(s.limit/8, time.Millisecond))
	defer tick.Stop()
	var moved int64
	since := time.Now()
	for {
		select {
		case <-s.end:
			return
		case <-tick.C:
		}
		if now := s.link.conn.moved.Load(); now != moved || s.busy.Load() == 0 {
			moved, since = now, time.Now()
			continue
		}
		idle := time.Since(since)
		if s.slow.Load() > 0 && idle > s.limit/2 {
			if s.ask(&moved) {
				since = time.Now()
				continue
			}
		}
		if idle >= s.limit {
			s.fail(errSilent)
			return
		}
	}
}

// ask asks whether the server is alive, within half the time-out.
func (s *session) ask(moved *int64) bool {
	alive := make(chan error, 1)
	go func() {
		_, _, err := s.link.client.SendRequest(keepAlive, true, nil)
		alive <- err
	}()
	wait := time.NewTimer(s.limit / 2)
	defer wait.Stop()
	select {
	case err := <-alive:
		*moved = s.link.conn.moved.Load()
		return err == nil
	case <-wait.C:
		s.fail(errSilent)
	case <-s.end:
	}
	return false
}
