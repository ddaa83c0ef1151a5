//go:build !linux

package file

import (
	"os"

	"github.com/cowl-disk/cowl/block/driver"
)

func lockNode(_ *os.File, _ string, _, _ driver.Perm, required bool) error {
	return lockUnavailable(required)
}
