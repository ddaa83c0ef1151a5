//go:build !unix

package main

import "os"

// peakKiB is the peak memory of an ended process, in KiB; 0 where the system
// does not tell.
func peakKiB(*os.ProcessState) int64 { return 0 }
