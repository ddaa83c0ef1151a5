//go:build unix

package file

import (
	"errors"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
)

// TestQuota: a quota that is used up is a full disk, and keeps its own number.
func TestQuota(t *testing.T) {
	err := sysErrorf(syscall.EDQUOT, "could not write '%s'", "x")
	var no syscall.Errno
	if !errors.Is(err, driver.ErrNoSpace) || !errors.Is(err, syscall.EDQUOT) || !errors.As(err, &no) || no != syscall.EDQUOT {
		t.Errorf("%v, number %v", err, no)
	}
	if m, ok := err.(driver.Message); !ok || driver.Text(m) != err.Error() {
		t.Error("the template is lost")
	}
}
