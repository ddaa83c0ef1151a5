package wire

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

// TestErrnoIsTheSystems checks that a number of the protocol is found as that of the
// system, and that the way back ends where it began.
func TestErrnoIsTheSystems(t *testing.T) {
	for e := range errnoTexts() {
		sys, ok := systemErrnos()[e]
		if !ok || !errors.Is(e, sys) {
			t.Errorf("%v: not the %v of the system", e, sys)
		}
		if e != ENOTSUP && e != ESHUTDOWN && ErrnoOf(sys) != e {
			t.Errorf("%v is reported as %v", sys, ErrnoOf(sys))
		}
		if ErrnoOf(e) != e {
			t.Errorf("%v is reported as %v", e, ErrnoOf(e))
		}
	}
	if !errors.Is(EPERM, fs.ErrPermission) || !errors.Is(ENOTSUP, errors.ErrUnsupported) {
		t.Error("kinds of package fs are not found")
	}
	if errors.Is(EIO, syscall.ENOSPC) || errors.Is(Errno(77), syscall.EINVAL) {
		t.Error("another number is found")
	}
	if got := ENOSPC.Error() + ENOSPC.Text() + Errno(77).Error(); got != "no space left on deviceNo space left on deviceNBD error 77" {
		t.Error(got)
	}
}
