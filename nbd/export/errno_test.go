package export

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// TestErrno checks which number clients get for each kind of error.
func TestErrno(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want wire.Errno
	}{
		{"full", fmt.Errorf("write: %w", driver.ErrNoSpace), wire.ENOSPC},
		{"beyond the end of a device", driver.Errorf(errors.Join(driver.ErrRange, driver.ErrNoSpace), "no room"), wire.ENOSPC},
		{"full server", driver.Errorf(driver.ErrInvalid, "write: %w", wire.ENOSPC), wire.ENOSPC},
		{"too large", driver.Errorf(driver.ErrTooLarge, "no room"), wire.ENOSPC},
		{"beyond the end of the disk", driver.Errorf(driver.ErrRange, "no"), wire.EINVAL},
		{"not understood", driver.Errorf(driver.ErrInvalid, "no"), wire.EINVAL},
		{"read-only", driver.Errorf(driver.ErrReadOnly, "no"), wire.EPERM},
		{"not supported", driver.Errorf(driver.ErrUnsupported, "no"), wire.ENOTSUP},
		{"of the system", fmt.Errorf("write: %w", syscall.ENOMEM), wire.ENOMEM},
		{"anything", errors.New("no"), wire.EIO},
	} {
		if got := wire.ErrnoOf(errno(c.err)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if errno(nil) != nil {
		t.Error("nil is an error")
	}
}
