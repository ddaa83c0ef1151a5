package guestagent

import (
	"context"
	"errors"
	"io"

	"github.com/cowl-disk/cowl/guestagent/qmp"
)

// Sentinel is the byte that begins the reply of guest-sync-delimited.
const Sentinel = 0xFF

// readBytes is how much is read from a client at once.
const readBytes = 16 << 10

// Session is a stream between a host and the agent.
type Session struct {
	agent  *Agent
	reader *qmp.Reader
	ctx    context.Context
	w      io.Writer
	err    error
}

// NewSession makes a session whose replies go to w.
func (a *Agent) NewSession(ctx context.Context, w io.Writer) *Session {
	s := &Session{agent: a, ctx: ctx, w: w}
	s.reader = qmp.NewReader(s.message)
	return s
}

// Feed takes the next bytes from the host and answers what they complete. It does not
// keep p. The error is one of the writer.
func (s *Session) Feed(p []byte) error {
	s.reader.Feed(p)
	err := s.err
	s.err = nil
	return err
}

// Reset forgets a message that has begun, and that a reply was to be delimited: the
// host that began it is gone.
func (s *Session) Reset() {
	s.reader.Reset()
	s.agent.run.Lock()
	s.agent.delimit = false
	s.agent.run.Unlock()
}

func (s *Session) message(value any, err error) {
	reply := s.agent.Handle(s.ctx, value, err)
	if reply == nil || s.err != nil {
		return
	}
	_, s.err = s.w.Write(reply)
}

// Serve answers a client until it leaves (nil), the context ends, or the stream
// fails. The caller closes the stream; closing it ends Serve.
func (a *Agent) Serve(ctx context.Context, stream io.ReadWriter) error {
	s := a.NewSession(ctx, stream)
	defer s.Reset()
	buf := make([]byte, readBytes)
	for {
		n, err := stream.Read(buf)
		if n > 0 {
			if err := s.Feed(buf[:n]); err != nil {
				a.logf(LevelWarning, "error sending response: %v", err)
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
