package file

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// Relock implements driver.Relocker: it adds the image locks for access to those
// that are held. The block layer opens an image that it has yet to probe without
// any, and asks for what the format needs when it knows the format.
func (n *node) Relock(_ context.Context, access driver.Access) error {
	if n.locking == "off" || access.NoLock {
		return nil
	}
	return lockNode(n.f, n.name, access.Perm, access.Shared, n.locking == "on")
}
