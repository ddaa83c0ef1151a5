//go:build unix && !linux

package qemuga

import "golang.org/x/sys/unix"

func dup(from, to int) error { return unix.Dup2(from, to) }

// closeOnExec does nothing: what the agent inherits is its starter's matter here.
func closeOnExec() {}

// socketMethod returns the method of a listening socket, "" if there is none for it.
func socketMethod(sa unix.Sockaddr) string {
	if _, ok := sa.(*unix.SockaddrUnix); ok {
		return "unix-listen"
	}
	return ""
}
