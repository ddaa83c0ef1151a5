package qemuga

import "golang.org/x/sys/unix"

func dup(from, to int) error { return unix.Dup3(from, to, 0) }

// closeOnExec keeps what the agent inherited from the programs that it starts. Kernels
// before 5.11 cannot; the descriptors do no damage there.
func closeOnExec() { _ = unix.CloseRange(3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC) }

// socketMethod returns the method of a listening socket, "" if there is none for it.
func socketMethod(sa unix.Sockaddr) string {
	switch sa.(type) {
	case *unix.SockaddrUnix:
		return "unix-listen"
	case *unix.SockaddrVM:
		return "vsock-listen"
	}
	return ""
}
