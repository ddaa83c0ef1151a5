//go:build unix

package file

import (
	"os"

	"golang.org/x/sys/unix"
)

// handleWritable says whether f may be written and read. What the system does not tell,
// the first request does.
func handleWritable(f *os.File) bool {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return err != nil || flags&unix.O_ACCMODE == unix.O_RDWR
}
