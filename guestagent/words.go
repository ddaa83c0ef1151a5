package guestagent

import (
	"errors"
	"strings"
	"syscall"
)

// Words gives an error of the system the words of the C library, which QEMU's
// messages end with: Go's begin in lower case.
func Words(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	return &sysError{errno}
}

type sysError struct{ errno syscall.Errno }

func (e *sysError) Unwrap() error { return e.errno }

func (e *sysError) Error() string {
	s := e.errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}
