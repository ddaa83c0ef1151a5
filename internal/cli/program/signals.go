package program

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
)

// signals is what became of the signals that ask a process to end.
type signals struct {
	got     atomic.Pointer[os.Signal] // the first one
	orderly atomic.Bool
}

type signalsKey struct{}

// EndsOrderly says that a signal is a request which this program fulfils, as a
// server does: its exit code tells how that went, and it does not die of the signal.
// It has no effect outside of Main.
func EndsOrderly(ctx context.Context) {
	if s, ok := ctx.Value(signalsKey{}).(*signals); ok {
		s.orderly.Store(true)
	}
}

// Interrupted says whether the signal that ended ctx is the one of a terminal's key (SIGINT): a person waits for the end
// of the program. It is false outside of Main.
func Interrupted(ctx context.Context) bool {
	s, ok := ctx.Value(signalsKey{}).(*signals)
	if !ok {
		return false
	}
	sig := s.got.Load()
	return sig != nil && *sig == os.Interrupt
}

// catchSignals returns a context that ends with the first signal, once signals are
// caught. The second one ends the process.
func catchSignals(ctx context.Context) (context.Context, *signals) {
	s := &signals{}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, signalsKey{}, s))
	ignoreBrokenPipes()
	return &waited{Context: ctx, arm: sync.OnceFunc(func() { s.catch(cancel) })}, s
}

// catch lets signals end a context from here on.
func (s *signals) catch(cancel context.CancelFunc) {
	ch := make(chan os.Signal, 2)
	for _, sig := range endSignals {
		if !signal.Ignored(sig) {
			signal.Notify(ch, sig)
		}
	}
	go func() {
		first := <-ch
		s.got.Store(&first)
		cancel()
		second := <-ch
		dieOf(second)
	}()
}

// waited is a context that arms what ends it when something waits for its end first.
type waited struct {
	context.Context
	arm func()
}

// Done implements context.Context.
func (w *waited) Done() <-chan struct{} {
	w.arm()
	return w.Context.Done()
}

// DieOfSignal ends the process by the signal that ended ctx, if one did and the program does not end
// orderly: nothing that is under way is waited for.
func DieOfSignal(ctx context.Context) {
	if s, ok := ctx.Value(signalsKey{}).(*signals); ok {
		s.end()
	}
}

// end lets the process die of the signal that interrupted it, so that the process
// that waits for it, such as a shell with a loop, can tell.
func (s *signals) end() {
	if sig := s.got.Load(); sig != nil && !s.orderly.Load() {
		dieOf(*sig)
	}
}
