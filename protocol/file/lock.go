package file

import "github.com/cowl-disk/cowl/block/driver"

// locks is a set of image locks: what is used, and what is not shared.
type locks struct{ perm, unshared driver.Perm }

// lockUnavailable is the answer of systems without image locks.
func lockUnavailable(required bool) error {
	if !required {
		return nil
	}
	return driver.Errorf(driver.ErrUnsupported, "file lock requested but OFD locking syscall is unavailable")
}
