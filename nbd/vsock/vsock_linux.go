package vsock

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// conn is a connection: the file does the waiting and the deadlines.
type conn struct {
	*os.File
	local, remote Addr
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func addrOf(sa unix.Sockaddr) Addr {
	if vm, ok := sa.(*unix.SockaddrVM); ok {
		return Addr{vm.CID, vm.Port}
	}
	return Addr{}
}

func newConn(fd int, remote Addr) *conn {
	local, _ := unix.Getsockname(fd)
	return &conn{os.NewFile(uintptr(fd), "vsock"), addrOf(local), remote}
}

// Dial connects to "cid:port".
func Dial(ctx context.Context, address string) (net.Conn, error) {
	a, err := ParseAddr(address)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: a, Err: err}
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(os.NewSyscallError("socket", err))
	}
	err = unix.Connect(fd, &unix.SockaddrVM{CID: a.CID, Port: a.Port})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return fail(os.NewSyscallError("connect", err))
	}
	c := newConn(fd, a)
	if err != nil {
		if err := c.wait(ctx); err != nil {
			c.Close()
			return fail(err)
		}
	}
	return c, nil
}

// wait waits until a connection is made.
func (c *conn) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = rc.Write(func(fd uintptr) bool {
		pfd := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(pfd, 0); err != nil || n == 0 {
			return err != nil && !errors.Is(err, unix.EINTR)
		}
		if code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
			result = err
		} else if code != 0 {
			result = os.NewSyscallError("connect", syscall.Errno(code))
		}
		return true
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, result)
}

// listener accepts connections.
type listener struct {
	f    *os.File
	rc   syscall.RawConn
	addr Addr
}

// Listen listens at "cid:port"; ":port" is for every peer.
func Listen(address string) (net.Listener, error) {
	a, err := ParseAddr(address)
	if err != nil {
		return nil, err
	}
	fail := func(call string, err error) (net.Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: "vsock", Addr: a, Err: os.NewSyscallError(call, err)}
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: a.CID, Port: a.Port}); err != nil {
		unix.Close(fd)
		return fail("bind", err)
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		unix.Close(fd)
		return fail("listen", err)
	}
	return FileListener(fd)
}

// FileListener makes a listener of a descriptor that listens already, and owns it.
func FileListener(fd int) (net.Listener, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	if _, ok := sa.(*unix.SockaddrVM); !ok {
		return nil, errors.New("not a vsock socket")
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	l := &listener{f: os.NewFile(uintptr(fd), "vsock"), addr: addrOf(sa)}
	l.rc, err = l.f.SyscallConn()
	return l, err
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	var fd int
	var sa unix.Sockaddr
	var err error
	rerr := l.rc.Read(func(lfd uintptr) bool {
		for {
			fd, sa, err = unix.Accept4(int(lfd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if err != unix.EINTR && err != unix.ECONNABORTED {
				return err != unix.EAGAIN
			}
		}
	})
	if rerr == nil && err != nil {
		rerr = os.NewSyscallError("accept", err)
	}
	if rerr != nil {
		return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.addr, Err: rerr}
	}
	return newConn(fd, addrOf(sa)), nil
}

func (l *listener) Close() error   { return l.f.Close() }
func (l *listener) Addr() net.Addr { return l.addr }
