package ssh

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
)

// What a server has answered a write with is in the memory of its system, and stays there when
// the connection goes, or the server's process: until the system ends. So requests without an
// answer are sent again on another connection, and nothing else, if that system is the same: Linux
// tells by a number that it makes at its start. Where it is another one, or does not tell, and
// something was written since the last flush, the disk fails until a flush has said so. So it does
// after a time-out: a server that was only slow may execute a request later, over what was written
// by another connection meanwhile.

const (
	bootFile   = "/proc/sys/kernel/random/boot_id"
	bootLength = 36 // of a UUID as text, in bytes
)

// LossError says that the server may have lost what was written.
type LossError struct{ Reason error }

func (e *LossError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *LossError) Template() (string, []any) {
	return "what was written since the last flush may be lost: %v", []any{e.Reason}
}

// Unwrap returns why the connection was lost.
func (e *LossError) Unwrap() error { return e.Reason }

// boot asks the server which start of its system this is; "" where it does not tell.
func (s *session) boot(ctx context.Context) (id string) {
	var text string
	err := s.do(ctx, true, func() error {
		f, err := s.sftp.Open(bootFile)
		if err != nil {
			return err
		}
		b := make([]byte, bootLength)
		n, err := f.Read(b) // with more room there would be another request, which tells that there is no more
		if text = string(b[:n]); n > 0 && err == io.EOF {
			err = nil
		}
		go func() { _ = f.Close() }() // nobody needs the answer
		return err
	})
	if err != nil {
		return ""
	}
	return text
}

// learnBoot asks in the background which start of its system the first connection is to. Changes wait for that: behind
// many of them the answer would come late, and until then nobody could tell what is lost with the connection.
func (n *node) learnBoot(s *session) {
	n.learnt = make(chan struct{})
	n.dials.Go(func() {
		defer close(n.learnt)
		id := s.boot(context.Background()) // it ends with the connection
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.boot == "" { // else a later connection knows better
			n.boot = id
		}
	})
}

// sameSystem checks, on the first connection after all were lost, that nothing is lost with
// them. size is that of the file now.
func (n *node) sameSystem(ctx context.Context, s *session, size int64) error {
	n.mu.Lock()
	reason, boot, written, resizing := n.lost, n.boot, n.written, n.resizing
	n.mu.Unlock()
	if reason == nil {
		return nil
	}
	now := s.boot(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var err error
	switch {
	case written && (now == "" || now != boot):
		err = &LossError{reason}
	case size != n.Size() && !resizing && !n.unmeasured.Load():
		err = &ChangedError{size, n.Size()}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil && n.written && (now == "" || now != boot) { // since we looked
		err = &LossError{reason}
	}
	if err != nil {
		n.failed = err
		return err
	}
	if now == "" || now != boot {
		n.systems++
	}
	n.boot, n.lost = now, nil
	return nil
}

// kind says what a call of change does.
type kind uint8

const (
	asking   kind = iota // changes nothing, and may take long
	resizing             // may take long
	writing
)

// change runs a call that changes the file, on one of the connections, and again on another one
// if that is lost: doing it twice does the same.
func (n *node) change(ctx context.Context, what kind, call func(*session) error) error {
	select {
	case <-n.learnt:
	case <-ctx.Done():
		return ctx.Err()
	}
	for failed := 0; ; {
		n.mu.Lock()
		system := n.systems
		n.mu.Unlock()
		s, err := n.session(ctx)
		if err == nil {
			if err = s.do(ctx, what != writing, func() error { return call(s) }); err == nil && n.done(what, system) {
				return nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			continue // what has answered is gone already
		}
		if errors.Is(err, driver.ErrTimeout) {
			if what != asking && s != nil {
				return n.late(err)
			}
			failed++ // each try takes the whole time-out
		}
		if failed++; failed > tries || !passing(err) {
			return err
		}
		select {
		case <-time.After(firstWait << (failed - 1)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// late notes that a change may come to pass later, and returns the error of the disk.
func (n *node) late(reason error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failed == nil {
		n.failed = &LossError{reason}
	}
	return n.failed
}

// done notes a change that a system has answered, and says whether the server still has that.
func (n *node) done(what kind, system int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if what != asking && n.systems == system {
		n.written = true
		n.changes++
	}
	return n.systems == system
}

// flushed notes that all changes up to a number are durable.
func (n *node) flushed(changes int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changes == changes {
		n.written = false
	}
}

// resizes notes that the length of the file is being changed, and returns what ends that.
func (n *node) resizes() (done func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resizing = true
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.resizing = false
	}
}

// report returns the loss that a flush has to tell of, which is told of once; then the disk can
// be used again.
func (n *node) report() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var loss *LossError
	err := n.failed
	if errors.As(err, &loss) {
		n.failed, n.lost, n.written = nil, nil, false
		n.systems++
	}
	return err
}
