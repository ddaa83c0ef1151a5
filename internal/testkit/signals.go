package testkit

import (
	"os"
	"os/signal"
	"syscall"
)

// HangUp lets programs that are started from now on end by a hangup, also where this one
// ignores it (as under nohup): what is ignored stays so in children, what is handled is
// not. It returns what undoes that.
func HangUp() (undo func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return func() { signal.Stop(c) }
}
