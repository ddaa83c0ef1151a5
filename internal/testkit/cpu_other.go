//go:build !unix

package testkit

import "time"

var started = time.Now()

// CPUTime is the time since the program began: the processor's is not known here.
func CPUTime() time.Duration { return time.Since(started) }
