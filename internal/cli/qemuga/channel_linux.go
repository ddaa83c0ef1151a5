package qemuga

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
)

// readBytes is how much is read from a port at once.
const readBytes = 16 << 10

// virtioPort is a port of virtio-serial. Reading it returns nothing while no host is
// there; an edge of epoll reports that a host opened the port, so that waiting costs nothing.
type virtioPort struct {
	fd, epoll, wake int
	mu              sync.Mutex // held while a descriptor is used
	closed          bool
}

func openVirtio(path string) (channel, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	p := &virtioPort{fd: fd, epoll: -1, wake: -1}
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
	}
	if err == nil {
		err = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, p.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(p.wake)})
	}
	if err != nil {
		p.release()
		return nil, openError(path, err)
	}
	return p, nil
}

func openError(path string, err error) error {
	return &channelError{path, guestagent.Words(err)}
}

type channelError struct {
	path string
	err  error
}

func (e *channelError) Error() string {
	return "error opening channel '" + e.path + "': " + e.err.Error()
}
func (e *channelError) Unwrap() error { return e.err }

func (p *virtioPort) release() {
	for _, fd := range []int{p.fd, p.epoll, p.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (p *virtioPort) serve(ctx context.Context, agent *guestagent.Agent) error {
	defer func() {
		p.mu.Lock()
		p.closed = true
		p.release()
		p.mu.Unlock()
	}()
	session := agent.NewSession(ctx, p)
	defer session.Reset()
	buf := make([]byte, readBytes)
	events := make([]unix.EpollEvent, 2)
	for ctx.Err() == nil {
		n, err := unix.Read(p.fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == nil && n > 0:
			if err := session.Feed(buf[:n]); errors.Is(err, errHostGone) {
				session.Reset()
			} else if err != nil {
				return err
			}
			continue
		case err == nil:
			// No host is there; the rest of its message will not come.
			session.Reset()
		case err != unix.EAGAIN:
			return guestagent.Words(err)
		}
		if _, err := unix.EpollWait(p.epoll, events, -1); err != nil && err != unix.EINTR {
			return err
		}
	}
	return ctx.Err()
}

var errHostGone = errors.New("the host is gone")

// hostPatience is how long a reply waits for a host that is not there, and hostCheck how
// often it looks.
const (
	hostPatience = 2 * time.Second
	hostCheck    = 10 * time.Millisecond
)

// Write writes a reply. It waits for a host that does not read.
func (p *virtioPort) Write(data []byte) (int, error) {
	written := 0
	var waited time.Duration
	for written < len(data) {
		n, err := unix.Write(p.fd, data[written:])
		switch {
		case err == nil:
			written += n
			continue
		case err == unix.EINTR:
			continue
		case err != unix.EAGAIN:
			return written, err
		}
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLOUT}, {Fd: int32(p.wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return written, err
		}
		if fds[1].Revents != 0 {
			return written, os.ErrClosed
		}
		if fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
			// The request of a host that has just opened the port can be here before the event
			// that it is there.
			if waited += hostCheck; waited > hostPatience {
				return written, errHostGone
			}
			time.Sleep(hostCheck)
		}
	}
	return written, nil
}

func (p *virtioPort) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		_, _ = unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// openSerial opens a serial port for bytes as they are.
func openSerial(path string) (channel, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	// A device that is no terminal needs no settings.
	if tio, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		tio.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.IGNPAR | unix.PARMRK | unix.INPCK | unix.ISTRIP | unix.INLCR | unix.IGNCR |
			unix.ICRNL | unix.IXON | unix.IXOFF | unix.IXANY | unix.IMAXBEL
		tio.Oflag, tio.Lflag = 0, 0
		tio.Cflag |= unix.B38400
		tio.Cc[unix.VMIN], tio.Cc[unix.VTIME] = 1, 0
		// What waits to be read is from before.
		_ = unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH)
		if err := unix.IoctlSetTermios(fd, unix.TCSETS, tio); err != nil {
			unix.Close(fd)
			return nil, openError(path, err)
		}
	}
	return &stream{os.NewFile(uintptr(fd), path)}, nil
}
