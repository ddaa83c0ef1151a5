package file

import (
	"os"
	"syscall"
)

const (
	// Of sys/fcntl.h; package unix does not have them.
	ofdSetLock = 90 // F_OFD_SETLK
	ofdGetLock = 92 // F_OFD_GETLK

	seekHole = 3
	seekData = 4
)

func openPath(name string, flags int, direct bool) (*os.File, error) {
	f, err := os.OpenFile(name, flags, 0)
	if err != nil || !direct {
		return f, err
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_NOCACHE, 1); errno != 0 {
		f.Close()
		return nil, errno
	}
	return f, nil
}

// directAlign: without a cache the system still takes requests of any alignment.
func directAlign(*os.File, bool) (align, mem int64) { return 0, 0 }
