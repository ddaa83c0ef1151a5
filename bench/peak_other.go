//go:build !unix

package main

import "os"

// peakKiB is the peak memory of an ended process, in KiB; 0 where the system
// does not tell.
func peakKiB(*os.ProcessState) int64 { return 0 }

// roomOf is the length of a file: what it takes on disk is not known here.
func roomOf(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
