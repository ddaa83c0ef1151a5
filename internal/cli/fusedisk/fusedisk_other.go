//go:build !linux && !darwin && !freebsd

package fusedisk

import (
	"errors"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/qemuimg"
)

// Mounter shows disks.
type Mounter struct{}

// Mount fails: there is no FUSE here.
func (Mounter) Mount(string, *block.Image, int64, int64, bool) (qemuimg.Mounted, error) {
	return nil, errors.New("this system has no FUSE; cowl nbd serves the disk to a client instead")
}
