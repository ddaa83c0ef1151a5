//go:build !linux && !darwin && !freebsd

package fusedisk

import (
	"errors"

	"github.com/cowl-disk/cowl/block"
)

// Options say how a disk is shown.
type Options struct {
	Offset, Length int64
	AllowOther     bool
}

// Mount is a disk that is shown.
type Mount struct{}

// New fails: there is no FUSE here.
func New(string, *block.Image, Options) (*Mount, error) {
	return nil, errors.New("this system has no FUSE; cowl nbd serves the disk to a client instead")
}

// Wait returns at once.
func (*Mount) Wait() {}

// Unmount does nothing.
func (*Mount) Unmount() error { return nil }
