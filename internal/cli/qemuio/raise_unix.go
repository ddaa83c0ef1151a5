//go:build unix

package qemuio

import (
	"os/signal"
	"syscall"
)

// raise ends the process by a signal, or whatever else the system does at it: the
// program has no handler for signals that are asked for.
func raise(sig syscall.Signal) error {
	if sig != 0 {
		signal.Reset(sig)
	}
	return syscall.Kill(syscall.Getpid(), sig)
}
