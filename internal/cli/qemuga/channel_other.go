//go:build !linux && !windows

package qemuga

import (
	"fmt"
	"os"

	"github.com/cowl-disk/cowl/guestagent"
)

// openVirtio opens a port of virtio-serial as a file.
func openVirtio(path string) (channel, error) { return openSerial(path) }

func openSerial(path string) (channel, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("error opening channel '%s': %w", path, guestagent.Cause(err))
	}
	if err := rawDevice(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("error setting up channel '%s': %w", path, err)
	}
	return &stream{f}, nil
}
