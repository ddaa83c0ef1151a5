package http

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/zero"
)

// spool holds an object that comes as a stream, in a temporary file.
type spool struct {
	f    *os.File
	name string        // where the system does not let go of files that are open
	done chan struct{} // closed when the stream has ended

	mu     sync.Mutex
	have   int64         // bytes from the start that are there
	more   chan struct{} // closed when have grows
	failed error
}

// spoolStep is how much is written to the file at a time.
const spoolStep = 256 << 10

// openSpool begins with an object of which a is the whole.
func (n *node) openSpool(ctx context.Context, a *answer, env *driver.Env) error {
	f, err := os.CreateTemp("", "cowl-http-")
	if err != nil {
		a.body.Close()
		return driver.Errorf(nil, "the server has no ranges of bytes, and there is no room for a temporary file: %w", err)
	}
	n.spool = &spool{f: f, done: make(chan struct{}), more: make(chan struct{})}
	if err := os.Remove(f.Name()); err != nil {
		n.spool.name = f.Name()
	}
	n.size = a.ContentLength
	if env.Warn != nil {
		env.Warn("the server of '" + n.name + "' has no ranges of bytes: the whole object goes through a temporary file")
	}
	go n.stream(a)
	if n.size >= 0 {
		return nil
	}
	// The length is known at the end only.
	select {
	case <-n.spool.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	n.spool.mu.Lock()
	defer n.spool.mu.Unlock()
	n.size = n.spool.have
	return n.spool.failed
}

// stream fetches the object into the file. After a lost connection it begins again, and
// passes over what is there.
func (n *node) stream(first *answer) {
	s := n.spool
	defer close(s.done)
	err := repeat(n.ctx, func() error {
		a := first
		first = nil
		if a == nil {
			var err error
			if a, err = n.c.get(n.ctx, 0, 0); err != nil {
				return err
			}
		}
		defer a.body.Close()
		if a.StatusCode != http.StatusOK {
			return statusError(a)
		}
		if err := n.c.check(a, a.ContentLength); err != nil {
			return err
		}
		return s.take(a.body, n.size)
	})
	if err != nil {
		s.fail(err)
	}
}

// take reads a stream of size bytes, or of any number if size is negative, from its
// start.
func (s *spool) take(r io.Reader, size int64) error {
	if _, err := io.CopyN(io.Discard, r, s.have); err != nil {
		return err
	}
	buf := make([]byte, spoolStep)
	for {
		m, err := io.ReadFull(r, buf)
		if m > 0 {
			if e := s.add(buf[:m]); e != nil {
				return driver.Errorf(driver.ErrInvalid, "the temporary file cannot be written: %w", e)
			}
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return err
		case size >= 0 && s.have < size:
			return io.ErrUnexpectedEOF
		default:
			return s.f.Truncate(s.have) // holes at the end
		}
	}
}

// add appends to the file, leaving zeroes out.
func (s *spool) add(p []byte) error {
	if !zero.IsZero(p) {
		if _, err := s.f.WriteAt(p, s.have); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have += int64(len(p))
	close(s.more)
	s.more = make(chan struct{})
	return nil
}

func (s *spool) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
	close(s.more)
	s.more = make(chan struct{})
}

// read fills p from off, as soon as that has come.
func (s *spool) read(ctx context.Context, p []byte, off int64) error {
	for {
		s.mu.Lock()
		have, failed, more := s.have, s.failed, s.more
		s.mu.Unlock()
		switch {
		case have >= off+int64(len(p)):
			n, err := s.f.ReadAt(p, off)
			if err == io.EOF { // a hole at the end
				clear(p[n:])
				err = nil
			}
			return err
		case failed != nil:
			return driver.Errorf(driver.ErrInvalid, "reading %d bytes at offset %d: %w", len(p), off, failed)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close gives the file up. The context of the node has ended.
func (s *spool) close() {
	<-s.done
	s.f.Close()
	if s.name != "" {
		_ = os.Remove(s.name) // whoever looks after temporary files can have it else
	}
}
