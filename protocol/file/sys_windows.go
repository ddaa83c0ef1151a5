package file

import (
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// isFull tells whether an error number says that there is no room.
func isFull(no syscall.Errno) bool {
	return no == windows.ERROR_DISK_FULL || no == windows.ERROR_HANDLE_DISK_FULL || no == windows.ERROR_DISK_QUOTA_EXCEEDED || no == syscall.ENOSPC
}

// allocated is not known without further questions.
func allocated(fs.FileInfo) int64 { return -1 }

// preadOnce reads without retrying.
func preadOnce(f *os.File, p []byte, off int64) (int, error) {
	n, err := f.ReadAt(p, off)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// Identity implements driver.Identifier. The image locks keep two users of a file apart
// here.
func (n *node) Identity() string { return "" }

// handleWritable is not known: the first request tells.
func handleWritable(*os.File) bool { return true }
