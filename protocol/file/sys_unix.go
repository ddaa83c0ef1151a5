//go:build unix

package file

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Identity implements driver.Identifier: the device and inode number of a file, the
// number of the device itself for a device, whatever names lead there.
func (n *node) Identity() string {
	st, err := n.f.Stat()
	if err != nil {
		return ""
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return ""
	case st.Mode()&fs.ModeDevice != 0:
		return fmt.Sprintf("device %v %d", st.Mode()&fs.ModeCharDevice != 0, sys.Rdev)
	}
	return fmt.Sprintf("file %d %d", sys.Dev, sys.Ino)
}

// handleWritable says whether f may be written and read. What the system does not tell,
// the first request does.
func handleWritable(f *os.File) bool {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return err != nil || flags&unix.O_ACCMODE == unix.O_RDWR
}

func allocated(st fs.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return -1
}

// isFull tells whether an error number says that there is no room.
func isFull(no syscall.Errno) bool { return no == syscall.ENOSPC || no == syscall.EDQUOT }

func preadOnce(f *os.File, p []byte, off int64) (n int, err error) {
	err = retry(func() error { n, err = syscall.Pread(int(f.Fd()), p, off); return err })
	return max(n, 0), err
}

// retry repeats f while signals interrupt it.
func retry(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}
