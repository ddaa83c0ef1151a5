//go:build unix

package file

import (
	"fmt"
	"io/fs"
	"syscall"
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
