//go:build unix

package testkit

import (
	"syscall"
	"time"
)

// CPUTime is how much processor time this process has used. Bounds on work are
// measured with it: time on the clock depends on what else the machine does.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
