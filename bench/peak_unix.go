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

// roomOf is how many bytes a file takes on disk.
func roomOf(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512, nil
	}
	return info.Size(), nil
}
