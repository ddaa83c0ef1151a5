package qemuga

import "golang.org/x/sys/unix"

func dup(from, to int) error { return unix.Dup3(from, to, 0) }

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
