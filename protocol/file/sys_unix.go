//go:build unix && !linux

package file

import (
	"io/fs"
	"os"
	"syscall"
)

func allocated(st fs.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return -1
}

// isFull tells whether an error number says that there is no room.
func isFull(no syscall.Errno) bool { return no == syscall.ENOSPC || no == syscall.EDQUOT }

func preadOnce(f *os.File, p []byte, off int64) (int, error) {
	for {
		n, err := syscall.Pread(int(f.Fd()), p, off)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
