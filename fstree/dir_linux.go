package fstree

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stat takes over owner and device numbers. shared: the file has several names.
func (d *dirSource) stat(n *Node, info fs.FileInfo) (id fileID, shared bool) {
	st := info.Sys().(*syscall.Stat_t)
	n.UID, n.GID = st.Uid, st.Gid
	if info.Mode()&fs.ModeDevice != 0 {
		n.Major, n.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	return fileID{uint64(st.Dev), st.Ino}, st.Nlink > 1
}

// xattrs reads the extended attributes of the file at path, which is not followed.
func (d *dirSource) xattrs(n *Node, path string) error {
	names, err := sized(func(p []byte) (int, error) { return unix.Llistxattr(path, p) })
	if err != nil {
		return d.unreadable(path, "attributes", err)
	}
	var list []Xattr
	for name := range strings.SplitSeq(strings.TrimRight(string(names), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value, err := sized(func(p []byte) (int, error) { return unix.Lgetxattr(path, name, p) })
		if err != nil {
			if err := d.unreadable(path, "attribute "+name, err); err != nil {
				return err
			}
			continue
		}
		list = append(list, Xattr{name, value})
	}
	n.SetXattrs(list)
	return nil
}

// unreadable decides what an error means: file systems without attributes have none.
func (d *dirSource) unreadable(path, what string, err error) error {
	switch {
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENODATA):
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		d.tree.lose("%s that this user may not read", what)
		return nil
	}
	return &fs.PathError{Op: "read " + what + " of", Path: path, Err: err}
}

// sized calls a function that fills a buffer until it is large enough.
func sized(call func([]byte) (int, error)) ([]byte, error) {
	var b []byte
	for range 5 {
		n, err := call(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		b = make([]byte, n)
		n, err = call(b)
		if err == unix.ERANGE { // has grown
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
	return nil, unix.ERANGE
}

func openNoFollow(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// nextData asks the file system for holes.
func nextData(f *os.File, off, size int64) (start, end int64, err error) {
	if off >= size {
		return size, size, nil
	}
	start, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // a hole to the end
		return size, size, nil
	case err != nil: // cannot tell
		return off, size, nil
	}
	end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		end = size
	}
	return min(start, size), min(end, size), nil
}
