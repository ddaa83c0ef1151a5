//go:build !linux && !darwin && !windows

package file

import "os"

func lockNode(_ *os.File, _ string, _, _ locks, required bool) error {
	return lockUnavailable(required)
}

func unlockNode(*os.File, locks, locks) {}
