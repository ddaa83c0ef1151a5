package file

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// locks is a set of image locks: what is used, and what is not shared.
type locks struct{ perm, unshared driver.Perm }

// lockUnavailable is the answer of systems without image locks.
func lockUnavailable(required bool) error {
	if !required {
		return nil
	}
	return driver.Errorf(driver.ErrUnsupported, "file lock requested but OFD locking syscall is unavailable")
}

// Relock implements driver.Relocker: it exchanges the image locks that are held
// for those of access; on error, those held before are kept. The block layer
// opens an image that it has yet to probe with few, and asks for what the format
// needs when it knows the format.
func (n *node) Relock(_ context.Context, access driver.Access) error {
	if n.locking == "off" {
		return nil
	}
	next := locks{}
	if !access.NoLock {
		next = locks{perm: access.Perm & driver.PermAll, unshared: driver.PermAll &^ access.Shared}
	}
	n.lockMu.Lock()
	defer n.lockMu.Unlock()
	err := lockNode(n.f, n.name, n.held, next, n.locking == "on")
	if err == nil {
		n.held, next = next, n.held
	}
	unlockNode(n.f, next, n.held)
	return err
}
