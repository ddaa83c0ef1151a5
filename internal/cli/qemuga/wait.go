package qemuga

import (
	"context"
	"os"
	"time"
)

const (
	// retryInterval is the time between attempts to open what is there and fails.
	retryInterval = 5 * time.Second
	// watchInterval is the time between looks at a path that is watched: a link may
	// name a file in another folder.
	watchInterval = time.Minute
	// settleTime is how long the creator of a file may take to set its owner and mode.
	settleTime = 100 * time.Millisecond
)

// waitForPath waits until it is worth opening a path again: until it appears, or for
// retryInterval where it exists. It returns false if the context ends. Where the system
// tells about changes of a folder, nothing wakes up meanwhile.
func waitForPath(ctx context.Context, path string) bool {
	changed, stop := watch(path)
	defer func() { stop() }()
	for {
		interval := retryInterval
		if _, err := os.Stat(path); os.IsNotExist(err) && changed != nil {
			interval = watchInterval
		} else {
			changed = nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(interval):
			return true
		case <-changed:
		}
		// The folder can be a new one.
		stop()
		if !pause(ctx, settleTime) {
			return false
		}
		if _, err := os.Stat(path); err == nil {
			stop = func() {}
			return true
		}
		changed, stop = watch(path)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
