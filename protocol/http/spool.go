package http

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/tmpfile"
	"github.com/cowl-disk/cowl/internal/zero"
)

// spool holds an object that comes as a stream: in memory as long as reads follow the
// stream, else in a temporary file.
type spool struct {
	f          *tmpfile.File
	done       chan struct{} // closed when the stream has ended for good
	sequential bool          // what was read can be forgotten
	warn       func()        // tells the user of the file

	mu     sync.Mutex
	have   int64         // bytes from the start that have come
	more   chan struct{} // closed when anything here changes
	failed error

	chunks [][]byte // without f: spoolStep bytes each from base on, nil for zeroes
	base   int64
	read   int64   // the furthest end of what was read
	wanted int64   // and of what somebody waits for
	file   bool    // somebody waits for what only a file can give
	reads  []int64 // where the reads begin that are under way: nothing from there on is forgotten
}

const (
	// spoolStep is how much is written to the file at a time.
	spoolStep = 256 << 10
	// spoolAhead is how far the stream runs ahead of its readers in memory, spoolBehind how
	// much is kept behind the furthest of them for the others, and spoolJump the distance
	// from which a read does not follow the stream.
	spoolAhead  = 4 << 20
	spoolBehind = 16 << 20
	spoolJump   = 32 << 20
)

// errAgain ends a stream that is to begin again, into a file.
var errAgain = errors.New("the object is fetched again, into a file")

// openSpool begins with an object of which a is the whole. sequential says that the disk
// will be read once, in order.
func (n *node) openSpool(ctx context.Context, a *answer, env *driver.Env, sequential bool) error {
	s := &spool{done: make(chan struct{}), more: make(chan struct{}), sequential: sequential}
	s.warn = func() {
		if env.Warn != nil {
			env.Warn("the server of '" + n.name + "' has no ranges of bytes: the whole object goes through a temporary file")
		}
	}
	n.spool, n.size = s, a.ContentLength
	if n.size >= 0 {
		go n.stream(a)
		return nil
	}
	// The length is known at the end only.
	s.warn()
	if err := s.create(); err != nil {
		close(s.done)
		a.body.Close()
		return err
	}
	go n.stream(a)
	select {
	case <-s.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n.size = s.have
	return s.failed
}

// create makes the file. What is in memory goes into it.
func (s *spool) create() error {
	f, err := tmpfile.Anonymous("", "cowl-http-")
	if err != nil {
		return driver.Errorf(driver.ErrInvalid, "the server has no ranges of bytes, and there is no room for a temporary file: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.f = f
	chunks, base := s.chunks, s.base
	s.chunks, s.base = nil, 0
	s.wake()
	if base > 0 {
		s.have = 0
		return nil
	}
	for i, c := range chunks {
		if c == nil {
			continue
		}
		if _, err := f.WriteAt(c, int64(i)*spoolStep); err != nil {
			return driver.Errorf(driver.ErrInvalid, "the temporary file cannot be written: %w", err)
		}
	}
	return nil
}

// stream fetches the object. After a lost connection it begins again, and passes over
// what is there.
func (n *node) stream(first *answer) {
	s := n.spool
	defer close(s.done)
	for {
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
			// While nobody reads, the silence is ours.
			return s.take(n.ctx, a.body, n.size)
		})
		if err == nil {
			err = s.linger(n.ctx)
		}
		switch {
		case err == nil:
			return
		case errors.Is(err, errAgain):
			if err = s.create(); err == nil {
				continue
			}
		}
		s.fail(err)
		return
	}
}

// linger waits at the end of the stream, while reads may still want what was forgotten.
func (s *spool) linger(ctx context.Context) error {
	for {
		s.mu.Lock()
		file, gone, more := s.file, s.f == nil && s.base > 0, s.more
		s.mu.Unlock()
		switch {
		case !gone:
			return nil
		case file:
			return driver.Errorf(driver.ErrInvalid, "%w", errAgain)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

// take reads a stream of size bytes, or of any number if size is negative, from its
// start.
func (s *spool) take(ctx context.Context, r *watched, size int64) error {
	s.mu.Lock()
	have := s.have
	s.mu.Unlock()
	if _, err := io.CopyN(io.Discard, r, have); err != nil {
		return err
	}
	buf := make([]byte, spoolStep)
	for {
		if err := s.room(ctx, r); err != nil {
			return err
		}
		// All chunks but the last are whole ones, also after a lost connection.
		m, err := io.ReadFull(r, buf)
		last := size >= 0 && s.have+int64(m) == size
		if m > 0 && (m == len(buf) || last || size < 0 || s.f != nil) {
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
		case s.f == nil:
			return nil
		default:
			return s.f.Truncate(s.have) // holes at the end
		}
	}
}

// room waits until the stream may go on, and goes over to a file where that is needed.
func (s *spool) room(ctx context.Context, r *watched) error {
	for {
		s.mu.Lock()
		memory, file, base, more := s.f == nil, s.file, s.base, s.more
		full := s.have >= max(s.read, s.wanted)+spoolAhead
		s.mu.Unlock()
		switch {
		case !memory:
			return nil
		case file && base > 0:
			return driver.Errorf(driver.ErrInvalid, "%w", errAgain)
		case file:
			return s.create()
		case !full:
			return nil
		}
		r.rest()
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.progress()
	}
}

// add appends to the file, leaving zeroes out, or to what is in memory.
func (s *spool) add(p []byte) error {
	zeroes := zero.IsZero(p)
	if s.f != nil && !zeroes {
		if _, err := s.f.WriteAt(p, s.have); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		var chunk []byte
		if !zeroes {
			chunk = append(chunk, p...)
		}
		s.chunks = append(s.chunks, chunk)
	}
	s.have += int64(len(p))
	s.wake()
	return nil
}

// wake lets those look again who wait. Called with mu.
func (s *spool) wake() {
	close(s.more)
	s.more = make(chan struct{})
}

func (s *spool) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
	s.wake()
}

// fill fills p from off, as soon as that has come.
func (s *spool) fill(ctx context.Context, p []byte, off int64) error {
	end := off + int64(len(p))
	s.mu.Lock()
	s.reads = append(s.reads, off)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		i := slices.Index(s.reads, off)
		s.reads = slices.Delete(s.reads, i, i+1)
	}()
	for {
		s.mu.Lock()
		f, have, failed, more := s.f, s.have, s.failed, s.more
		before := s.file
		if f == nil && s.fromMemory(p, off) {
			s.mu.Unlock()
			return nil
		}
		tell := s.file && !before
		s.mu.Unlock()
		if tell {
			s.warn()
		}
		switch {
		case f != nil && have >= end:
			n, err := f.ReadAt(p, off)
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

// fromMemory fills p from what is in memory, or says what is missing. Called with mu.
func (s *spool) fromMemory(p []byte, off int64) bool {
	end := off + int64(len(p))
	switch {
	case s.file:
		return false
	case off >= s.base && end <= s.have:
	case off < s.base, off > s.have+spoolJump, len(p) > spoolBehind, !s.sequential && end > spoolBehind:
		s.file = true
		s.wake()
		return false
	default:
		if end > s.wanted {
			s.wanted = end
			s.wake()
		}
		return false
	}
	for done := 0; done < len(p); {
		at := off + int64(done) - s.base
		c, in := s.chunks[at/spoolStep], int(at%spoolStep)
		k := min(len(p)-done, spoolStep-in)
		if c == nil {
			clear(p[done : done+k])
		} else {
			copy(p[done:done+k], c[in:])
		}
		done += k
	}
	if end > s.read {
		s.read = end
		first := slices.Min(s.reads)
		for s.sequential && s.read-s.base >= spoolBehind+spoolStep && first-s.base >= spoolStep {
			s.chunks, s.base = s.chunks[1:], s.base+spoolStep
		}
		s.wake()
	}
	return true
}

// close gives the file up. The context of the node has ended.
func (s *spool) close() {
	<-s.done
	if s.f != nil {
		_ = s.f.Discard() // whoever looks after temporary files can have it else
	}
}
