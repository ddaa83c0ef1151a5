// Package serve is cowl-native's side of its conversation with cowl: it answers requests
// and serves the disk that is open by NBD. An Engine does the work.
package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/nbd/server"
)

// Engine makes, removes and opens disks, one call at a time. Errors are of type *link.Error, or become one.
// One that keeps a connection for the next call is an io.Closer.
type Engine interface {
	// Create says whether the disk was not there before.
	Create(args json.RawMessage) (made bool, err error)
	Delete(args json.RawMessage) error
	Open(args json.RawMessage) (Disk, error)
}

// Disk is an open disk. Its methods may be called from several goroutines at once.
type Disk interface {
	Facts() (link.Facts, error)
	ReadAt(p []byte, off int64) error
	WriteAt(p []byte, off int64) error
	Flush() error
	// WriteZeroes makes a range zeroes; with keep it has its room afterwards.
	WriteZeroes(off, n int64, keep bool) error
	Discard(off, n int64) error
	// Extents tells of n bytes at off, from there on and without gaps, which are data and
	// which are holes, until yield returns false.
	Extents(off, n int64, yield func(length int64, data bool) bool) error
	Resize(r link.Resize) error
	// Usage is the room that the disk takes, in bytes, -1 if that is not known.
	Usage() (int64, error)
	// Close flushes and lets go of the disk.
	Close() error
}

// Starter is a Disk whose requests need no goroutine each.
type Starter interface {
	// StartRead and StartWrite are ReadAt and WriteAt, which call done, once and from any goroutine, when
	// the request is over. It must not block.
	StartRead(p []byte, off int64, done func(error))
	StartWrite(p []byte, off int64, done func(error))
}

// Snapshotter is a Disk with snapshots.
type Snapshotter interface {
	Snapshots() ([]link.Snapshot, error)
	CreateSnapshot(name string) error
	// ApplySnapshot returns the size of the disk.
	ApplySnapshot(name string) (int64, error)
	DeleteSnapshot(name string) error
}

// workers is how many requests on the data socket are executed at a time.
const workers = 16

// Ends are cowl-native's ends of what it has in common with cowl.
type Ends struct {
	Control, Data, Slots net.Conn
	// Memory is that of the slots. Cowl may write to it at any time.
	Memory []byte
}

// Run answers requests on the socket Control until it is closed, or closing is asked for, and serves the
// disk on the others. The caller ends the process after it, whatever calls of the library
// are still under way.
func Run(ends Ends, e Engine) error {
	s := &session{Ends: ends, engine: e, conn: link.NewConn(ends.Control)}
	if err := s.conn.Send(link.Reply{Version: link.Version}); err != nil {
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
			return io.EOF // cowl has ended since it started this program
		}
		return err
	}
	go func() {
		for range time.Tick(link.Alive) {
			if s.conn.Send(link.Reply{}) != nil {
				return
			}
		}
	}()
	requests := make(chan link.Request)
	ended := make(chan error, 1)
	// The end of cowl is seen at once, whatever a request waits for.
	go func() {
		for {
			var r link.Request
			if err := s.conn.Receive(&r); err != nil {
				ended <- err
				return
			}
			requests <- r
		}
	}()
	done := make(chan error, 1)
	go func() {
		for r := range requests {
			result, err := s.do(r)
			reply := link.Reply{ID: r.ID}
			if err == nil && result != nil {
				reply.Result, err = json.Marshal(result)
			}
			if err != nil {
				reply.Error = problem(r.Op, err)
			}
			if err := s.conn.Send(reply); err != nil || r.Op == link.OpClose {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-ended:
		return err
	case err := <-done:
		return err
	}
}

// problem is an error as it is told.
func problem(op string, err error) *link.Error {
	var e *link.Error
	if errors.As(err, &e) {
		return e
	}
	e = &link.Error{Step: link.StepRequest, Name: op}
	var no syscall.Errno
	if errors.As(err, &no) {
		e.Errno = int(no)
	} else {
		e.Text = err.Error()
	}
	return e
}

// session is the state of a conversation.
type session struct {
	Ends
	engine Engine
	conn   *link.Conn
	disk   Disk
	device *device // not nil: the sockets are served

	mu  sync.Mutex
	why *link.Error
}

func (s *session) do(r link.Request) (any, error) {
	switch r.Op {
	case link.OpCreate:
		return s.engine.Create(r.Args)
	case link.OpDelete:
		return nil, s.engine.Delete(r.Args)
	case link.OpOpen:
		return s.open(r.Args)
	case link.OpWhy:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.why, nil
	case link.OpRelease:
		return nil, s.release()
	case link.OpClose:
		err := s.release()
		if c, ok := s.engine.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
		return nil, err
	}
	if s.disk == nil {
		return nil, errors.New("no disk is open")
	}
	switch r.Op {
	case link.OpUsage:
		return s.disk.Usage()
	case link.OpResize:
		var size link.Resize
		if err := json.Unmarshal(r.Args, &size); err != nil {
			return nil, err
		}
		return nil, s.disk.Resize(size)
	}
	snap, ok := s.disk.(Snapshotter)
	if !ok {
		return nil, syscall.ENOTSUP
	}
	var name string
	if len(r.Args) > 0 {
		if err := json.Unmarshal(r.Args, &name); err != nil {
			return nil, err
		}
	}
	switch r.Op {
	case link.OpSnapshots:
		return snap.Snapshots()
	case link.OpCreateSnapshot:
		return nil, snap.CreateSnapshot(name)
	case link.OpApplySnapshot:
		return snap.ApplySnapshot(name)
	case link.OpDeleteSnapshot:
		return nil, snap.DeleteSnapshot(name)
	}
	return nil, fmt.Errorf("there is no request %q", r.Op)
}

// open opens a disk and serves it.
func (s *session) open(args json.RawMessage) (any, error) {
	if s.disk != nil {
		return nil, errors.New("a disk is open")
	}
	d, err := s.engine.Open(args)
	if err != nil {
		return nil, err
	}
	facts, err := d.Facts()
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	s.disk = d
	if s.device != nil {
		s.device.open.Store(&d)
		return facts, nil
	}
	s.device = newDevice(s, d)
	srv := server.New(server.Config{Workers: workers, MaxClients: 1})
	if err := srv.AddExport(&server.Export{Device: s.device}); err != nil {
		return nil, err
	}
	go func() { _ = srv.ServeConn(context.Background(), s.Data) }()
	go s.device.serveSlots()
	return facts, nil
}

// release closes the disk, if one is open. Nothing may be under way on the other sockets.
func (s *session) release() error {
	d := s.disk
	if d == nil {
		return nil
	}
	s.disk = nil
	return d.Close()
}
