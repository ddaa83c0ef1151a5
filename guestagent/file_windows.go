package guestagent

import (
	"os"
	"syscall"
)

const (
	errBadFile = syscall.EBADF
	errInvalid = syscall.EINVAL
)

func openRaw(path, mode string) (rawFile, error) {
	flags := map[string]int{
		"r": os.O_RDONLY, "r+": os.O_RDWR,
		"w": os.O_WRONLY | os.O_CREATE | os.O_TRUNC, "w+": os.O_RDWR | os.O_CREATE | os.O_TRUNC,
		"a": os.O_WRONLY | os.O_CREATE | os.O_APPEND, "a+": os.O_RDWR | os.O_CREATE | os.O_APPEND,
	}[mode]
	return os.OpenFile(path, flags, 0o666)
}
