//go:build unix

package guestagent

import (
	"errors"

	"golang.org/x/sys/unix"
)

const (
	errBadFile = unix.EBADF
	errInvalid = unix.EINVAL
)

// newFileMode is the mode of files that the agent makes, whatever its umask is.
const newFileMode = 0o666

// unixFile is a file descriptor that does not wait. Package os would have the runtime
// wait for pipes.
type unixFile int

func openRaw(path, mode string) (rawFile, error) {
	flags := unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NONBLOCK
	switch mode {
	case "r":
		flags |= unix.O_RDONLY
	case "r+":
		flags |= unix.O_RDWR
	case "w":
		flags |= unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC
	case "w+":
		flags |= unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC
	case "a":
		flags |= unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND
	case "a+":
		flags |= unix.O_RDWR | unix.O_CREAT | unix.O_APPEND
	}
	// Only a file that is new gets its mode.
	if flags&unix.O_CREAT != 0 {
		fd, err := open(path, flags|unix.O_EXCL)
		if err == nil {
			if err := unix.Fchmod(fd, newFileMode); err != nil {
				unix.Close(fd)
				unix.Unlink(path)
				return nil, err
			}
			return unixFile(fd), nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
	}
	fd, err := open(path, flags&^unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	return unixFile(fd), nil
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (f unixFile) Read(p []byte) (int, error) {
	return retry(func() (int, error) { return unix.Read(int(f), p) })
}

func (f unixFile) Write(p []byte) (int, error) {
	return retry(func() (int, error) { return unix.Write(int(f), p) })
}

func (f unixFile) Seek(offset int64, whence int) (int64, error) {
	return unix.Seek(int(f), offset, whence)
}

func (f unixFile) Close() error { return unix.Close(int(f)) }

// retry repeats a call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
