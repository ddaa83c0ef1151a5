//go:build !linux && !darwin

package file

import (
	"os"
	"syscall"
)

// There is no portable way to ask for holes.
const (
	seekHole = -1
	seekData = -1
)

func openPath(name string, flags int, direct bool) (*os.File, error) {
	if direct {
		return nil, syscall.ENOSYS
	}
	return os.OpenFile(name, flags, 0)
}

func directAlign(*os.File, bool) (align, mem int64) { return 0, 0 }
