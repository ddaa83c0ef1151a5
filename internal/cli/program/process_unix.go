//go:build unix

package program

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var endSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}

// ignoreBrokenPipes lets writes to a pipe without a reader fail, instead of ending the
// process in the middle of its work.
func ignoreBrokenPipes() { signal.Ignore(syscall.SIGPIPE) }

// dieOf ends the process by a signal.
func dieOf(sig os.Signal) {
	no, ok := sig.(syscall.Signal)
	if !ok {
		os.Exit(1)
	}
	signal.Reset(no)
	_ = syscall.Kill(os.Getpid(), no)
	// The signal may be blocked.
	time.Sleep(time.Second)
	os.Exit(128 + int(no))
}

// spareDescriptors is how many descriptors a command needs at least: two of the
// runtime's poller, the image, and what it opens beside that for a moment.
const spareDescriptors = 5

// prepareDescriptors refuses to start with too few descriptors, and lets the runtime
// take those of its poller now: it cannot recover from a failure later.
func prepareDescriptors() error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for range spareDescriptors {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			return fmt.Errorf("Too many open files: at least %d more are needed", spareDescriptors-len(fds))
		}
		if err != nil {
			return nil // no /dev/null: nothing can be said
		}
		fds = append(fds, fd)
	}
	for len(fds) > 0 {
		unix.Close(fds[0])
		fds = fds[1:]
	}
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	return nil
}

// brokenPipe tells whether a write failed because the reader is gone.
func brokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }
