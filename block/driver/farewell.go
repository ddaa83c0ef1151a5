package driver

import (
	"context"
	"time"
)

// Bounds of what is done after an operation was cancelled: a server that does not answer must not hold
// up the end of a command for a second.
const (
	// ClosingTime is for closing what was open.
	ClosingTime = 200 * time.Millisecond
	// UndoingTime is for removing what was made.
	UndoingTime = 400 * time.Millisecond
)

// Farewell returns a context for what has to be done although ctx may have ended: it ends by itself
// only if ctx has ended, or ends, and then limit later. The caller cancels it.
func Farewell(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		wait := time.NewTimer(limit)
		defer wait.Stop()
		select {
		case <-wait.C:
			cancel()
		case <-own.Done():
		}
	})
	return own, func() {
		stop()
		cancel()
	}
}
