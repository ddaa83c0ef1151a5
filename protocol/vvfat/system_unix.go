//go:build unix

package vvfat

import (
	"os"
	"syscall"
)

// keepOwner gives a new file the owner of the one that it will replace, as far as this process
// may.
func keepOwner(root *os.Root, path string, file *os.File) error {
	old, err := root.Lstat(path)
	if err != nil {
		return err
	}
	now, err := file.Stat()
	if err != nil {
		return err
	}
	was, ok := old.Sys().(*syscall.Stat_t)
	is, ok2 := now.Sys().(*syscall.Stat_t)
	if ok && ok2 && (was.Uid != is.Uid || was.Gid != is.Gid) {
		_ = file.Chown(int(was.Uid), int(was.Gid)) // only root can
	}
	return nil
}

// syncFolder makes the names in a folder durable.
func syncFolder(f *os.File) error { return f.Sync() }
