package testkit

import (
	"os"
	"os/signal"
	"syscall"
)

// HeedSignals lets programs that are started from now on end by a hangup and by an
// interrupt, also where this one ignores them, as under nohup and in the background of a
// script: what is ignored stays so in children, what is handled is not. It returns what
// undoes that.
func HeedSignals() (undo func()) {
	c := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	return func() { signal.Stop(c) }
}
