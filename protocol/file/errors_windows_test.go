package file

import (
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/windows"

	"github.com/cowl-disk/cowl/block/driver"
)

// TestDiskFull: what Windows says of a full disk is the kind that every system has.
func TestDiskFull(t *testing.T) {
	for _, no := range []syscall.Errno{windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED} {
		err := sysErrorf(no, "could not write '%s'", "x")
		var got syscall.Errno
		if !errors.Is(err, driver.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &got) || got != no {
			t.Errorf("%v, number %d", err, got)
		}
	}
}
