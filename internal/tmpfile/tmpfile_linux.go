package tmpfile

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// create makes a file without a name, or returns nil where the file system has none or
// /proc is not there to give it a name by.
func create(dir, pattern string) *File {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil
	}
	f := &File{File: os.NewFile(uintptr(fd), filepath.Join(dir, pattern)), dir: dir, pattern: pattern, path: fmt.Sprintf("/proc/self/fd/%d", fd)}
	here, err := f.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Stat(f.path); err == nil && os.SameFile(here, there) {
			return f
		}
	}
	f.Close()
	return nil
}

// link gives the file a name that no file has.
func (f *File) link(name string) error {
	if err := unix.Linkat(unix.AT_FDCWD, f.path, unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: f.Name(), New: name, Err: err}
	}
	return nil
}

// Push begins to put on the disk what was written so far, and does not wait until it is
// there: Finish has less to wait for then. It is best effort. Any goroutine may call it.
func (f *File) Push() {
	if c, err := f.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { unix.SyncFileRange(int(fd), 0, 0, unix.SYNC_FILE_RANGE_WRITE) })
	}
}
