//go:build unix

package sockaddr

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// takeSocket makes a connection of an inherited stream socket. It takes the socket
// away from its number: a second request for the number gets neither it nor another socket
// that the system has given the number to.
func takeSocket(fd int) (net.Conn, error) {
	if fd < 0 {
		return nil, errNoSocket
	}
	switch kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); {
	case err != nil:
		return nil, errNoSocket
	case kind != unix.SOCK_STREAM:
		return nil, errors.New("not a stream socket")
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(own), "inherited socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	if err := unix.Dup2(int(null.Fd()), fd); err != nil {
		c.Close()
		return nil, os.NewSyscallError("dup2", err)
	}
	unix.CloseOnExec(fd)
	return c, nil
}
