//go:build !linux && !darwin

package file

import "os"

func lockNode(_ *os.File, _ string, _ locks, required bool) error {
	return lockUnavailable(required)
}

func unlockNode(*os.File, locks, locks) {}
