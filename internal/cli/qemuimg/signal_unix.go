//go:build unix

package qemuimg

import (
	"os"
	"os/signal"
)

// onInfoSignal calls f when a signal asks for the state of the work, until the
// function that it returns is called.
func onInfoSignal(f func()) (stop func()) {
	ch := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(ch, infoSignals...)
	go func() {
		for {
			select {
			case <-ch:
				f()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
	}
}
