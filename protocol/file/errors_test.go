package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
)

// TestSystemErrors checks text, number and kind of what the system refuses.
func TestSystemErrors(t *testing.T) {
	if sysErrorf(nil, "could not read") != nil {
		t.Error("nil is an error")
	}
	for _, c := range []struct {
		err  error
		full bool
	}{
		{syscall.ENOSPC, true}, {syscall.EIO, false}, {fmt.Errorf("write: %w", &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), true}, {errors.New("odd"), false},
	} {
		err := sysErrorf(c.err, "could not write '%s'", "x")
		var no, want syscall.Errno
		errors.As(c.err, &want)
		if errors.As(err, &no); no != want {
			t.Errorf("%v: number %v, want %v", err, no, want)
		}
		text := c.err.Error()
		if want != 0 {
			text = want.Error()
		}
		if err.Error() != "could not write 'x': "+text {
			t.Error(err)
		}
		if errors.Is(err, driver.ErrNoSpace) != c.full || errors.Is(err, syscall.ENOSPC) != c.full {
			t.Errorf("%v: full is %v", err, errors.Is(err, driver.ErrNoSpace))
		}
	}
	if err := sysErrorf(syscall.ENOENT, "could not open"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
