//go:build unix && !linux

package differential

import "syscall"

// ended says whether a process has ended.
func ended(pid int) bool { return syscall.Kill(pid, 0) != nil }
