//go:build unix

package main

import (
	"os"
	"syscall"
)

// peakKiB is the peak memory of an ended process, in KiB.
func peakKiB(p *os.ProcessState) int64 {
	if r, ok := p.SysUsage().(*syscall.Rusage); ok {
		return int64(r.Maxrss)
	}
	return 0
}
