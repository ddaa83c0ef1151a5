//go:build linux && (amd64 || arm64)

package ceph

import (
	"errors"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/internal/native/serve"
)

// started are the requests that the library has. It tells by a file that some are over,
// so that none takes a thread of this program, and no thread of the library comes into it.
//
// pollMu is taken before mu, which is a leaf.
type started struct {
	events *os.File

	pollMu sync.Mutex // held while the library is asked what is over, and while the image is closed
	closed bool

	mu   sync.Mutex
	over map[uintptr]func(result int64)
	last uintptr
}

var _ serve.Starter = (*disk)(nil)

// watch begins to wait for what is over. It is called once, before the first request.
func (d *disk) watch() error {
	s := &d.started
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	s.events, s.over = os.NewFile(uintptr(fd), "events"), map[uintptr]func(int64){}
	if err := failed("notify", "", d.lib.notify(d.image, int32(fd), notifyEventFD)); err != nil {
		return errors.Join(err, s.events.Close())
	}
	go func() {
		var count [8]byte
		for {
			if _, err := s.events.Read(count[:]); err != nil || !d.ended() {
				return
			}
		}
	}()
	return nil
}

// ended ends the requests that are over. It returns false when the image is closed.
func (d *disk) ended() bool {
	s := &d.started
	s.pollMu.Lock()
	defer s.pollMu.Unlock()
	var list [32]uintptr
	for n := int32(len(list)); n == int32(len(list)); {
		if s.closed {
			return false
		}
		if n = d.lib.poll(d.image, &list[0], n); n < 0 {
			return true
		}
		for _, c := range list[:n] {
			id, result := d.lib.argument(c), d.lib.returned(c)
			d.lib.release(c)
			s.mu.Lock()
			over := s.over[id]
			delete(s.over, id)
			s.mu.Unlock()
			over(result)
		}
	}
	return true
}

// unwatch closes the image, after which the library must not be asked.
func (d *disk) unwatch(closeImage func() error) error {
	s := &d.started
	s.pollMu.Lock()
	defer s.pollMu.Unlock()
	s.closed = true
	return closeImage()
}

// start has f start a request, whose result goes to over.
func (d *disk) start(f func(completion uintptr) int32, over func(result int64)) {
	s := &d.started
	s.mu.Lock()
	s.last++
	id := s.last
	s.over[id] = over
	s.mu.Unlock()
	var c uintptr
	r := d.lib.newCompletion(id, 0, &c)
	if r >= 0 {
		if r = f(c); r >= 0 {
			return
		}
		d.lib.release(c)
	}
	s.mu.Lock()
	delete(s.over, id)
	s.mu.Unlock()
	over(int64(r))
}

// StartRead implements serve.Starter. p must not be memory of Go's.
func (d *disk) StartRead(p []byte, off int64, done func(error)) {
	if len(p) == 0 {
		done(nil)
		return
	}
	d.start(func(c uintptr) int32 {
		return d.lib.startRead(d.image, uint64(off), uint64(len(p)), unsafe.Pointer(&p[0]), c)
	}, func(n int64) {
		if n >= 0 {
			clear(p[min(n, int64(len(p))):])
		}
		done(result(n))
	})
}

// StartWrite implements serve.Starter. p must not be memory of Go's.
func (d *disk) StartWrite(p []byte, off int64, done func(error)) {
	if len(p) == 0 {
		done(nil)
		return
	}
	d.start(func(c uintptr) int32 {
		return d.lib.startWrite(d.image, uint64(off), uint64(len(p)), unsafe.Pointer(&p[0]), c)
	}, func(n int64) { done(result(n)) })
}
