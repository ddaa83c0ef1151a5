package wire

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
)

// Errno is an error number as the protocol has it: the same on every system.
type Errno uint32

// The error numbers of the specification.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

var errnoTexts = sync.OnceValue(func() map[Errno]string {
	return map[Errno]string{
		EPERM: "Operation not permitted", EIO: "Input/output error", ENOMEM: "Cannot allocate memory",
		EINVAL: "Invalid argument", ENOSPC: "No space left on device",
		EOVERFLOW: "Value too large for defined data type", ENOTSUP: "Operation not supported",
		ESHUTDOWN: "Cannot send after transport endpoint shutdown",
	}
})

func (e Errno) Error() string {
	s := e.Text()
	if _, ok := errnoTexts()[e]; ok {
		s = strings.ToLower(s[:1]) + s[1:]
	}
	return s
}

// Text is what strerror(3) says of the number: for messages that are sent to the other side.
func (e Errno) Text() string {
	if s, ok := errnoTexts()[e]; ok {
		return s
	}
	return fmt.Sprintf("NBD error %d", uint32(e))
}

// Template implements message.Message.
func (e Errno) Template() (string, []any) { return "%s", []any{e.Text()} }

// Is compares with the number that the system has for the same, and with what that is:
// a full disk is syscall.ENOSPC wherever it is.
func (e Errno) Is(target error) bool {
	sys, ok := systemErrnos()[e]
	return ok && errors.Is(sys, target)
}

var systemErrnos = sync.OnceValue(func() map[Errno]syscall.Errno {
	return map[Errno]syscall.Errno{
		EPERM: syscall.EPERM, EIO: syscall.EIO, ENOMEM: syscall.ENOMEM, EINVAL: syscall.EINVAL, ENOSPC: syscall.ENOSPC,
		EOVERFLOW: syscall.EOVERFLOW, ENOTSUP: syscall.ENOTSUP, ESHUTDOWN: syscall.ESHUTDOWN,
	}
})

// Known returns e, or EINVAL if the specification does not have it: so a client
// shall read it.
func (e Errno) Known() Errno {
	if _, ok := errnoTexts()[e]; ok {
		return e
	}
	return EINVAL
}

// ErrnoOf returns the number by which err is reported to a client: that of an
// Errno or of an error of the operating system in its chain, else EIO.
func ErrnoOf(err error) Errno {
	if err == nil {
		return 0
	}
	var e Errno
	if errors.As(err, &e) {
		return e.Known()
	}
	var sys syscall.Errno
	if !errors.As(err, &sys) {
		return EIO
	}
	switch sys {
	case syscall.EPERM, syscall.EROFS, syscall.EACCES:
		return EPERM
	case syscall.ENOMEM:
		return ENOMEM
	case syscall.EINVAL:
		return EINVAL
	case syscall.ENOSPC, syscall.EFBIG, syscall.EDQUOT:
		return ENOSPC
	case syscall.EOVERFLOW:
		return EOVERFLOW
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return ENOTSUP
	}
	return EIO
}
