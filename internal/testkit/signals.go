package testkit

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// ignored are the signals that were ignored when the process started.
var ignored = ignoredOf(syscall.SIGHUP, syscall.SIGINT)

func ignoredOf(list ...os.Signal) []os.Signal {
	return slices.DeleteFunc(list, func(s os.Signal) bool { return !signal.Ignored(s) })
}

// HeedSignals lets programs that are started from now on end by a hangup and by an
// interrupt, also where this one ignores them, as under nohup and in the background of a
// script: what is ignored stays so in children, what is handled is not. It returns what
// undoes that; several tests may have it at once.
func HeedSignals() (undo func()) {
	c := make(chan os.Signal, 1)
	if len(ignored) > 0 { // with none Notify would take all
		signal.Notify(c, ignored...)
	}
	return func() { signal.Stop(c) }
}
