package server

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// fileSocket returns what sendFile wants, nil if nc gains nothing by it. TCP to the
// same host loses: its receiver copies single pages instead of large fragments.
func fileSocket(nc net.Conn) syscall.RawConn {
	if s, ok := nc.(*net.UnixConn); ok {
		if rc, err := s.SyscallConn(); err == nil {
			return rc
		}
	}
	return nil
}

// cached fills p from offset at of f if the system has all of it in memory.
func cached(f *os.File, p []byte, at int64) bool {
	n, err := unix.Preadv2(int(f.Fd()), [][]byte{p}, at, unix.RWF_NOWAIT)
	return err == nil && n == len(p)
}

// hasHole says whether f has a hole among n bytes from offset at on.
func hasHole(f *os.File, at int64, n int) bool {
	hole, err := unix.Seek(int(f.Fd()), at, unix.SEEK_HOLE)
	return err == nil && hole < at+int64(n)
}

// sendFile sends n bytes of f from offset at on and returns how many it has sent.
// They are fewer without an error if f ends before or cannot be read in this way.
// An error is one of the socket, after which nothing can be sent.
func sendFile(rc syscall.RawConn, f *os.File, at int64, n int) (sent int, err error) {
	fd := int(f.Fd())
	err = rc.Write(func(s uintptr) bool {
		for sent < n {
			m, err := unix.Sendfile(int(s), fd, &at, n-sent)
			if m > 0 {
				sent += m
				continue
			}
			if err == unix.EAGAIN {
				return false
			}
			if err != unix.EINTR {
				return true
			}
		}
		return true
	})
	return sent, err
}
