package file

import (
	"errors"
	"fmt"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/block/driver"
)

// sysError is an error of the operating system with what was being done. Its
// text ends with what strerror says; errors.Is finds the errno, and through it
// fs.ErrNotExist and its like.
type sysError struct {
	doing string
	err   error // a syscall.Errno wherever there is one
}

func (e *sysError) Error() string { return e.doing + ": " + Strerror(e.err) }
func (e *sysError) Unwrap() error { return e.err }

// sysErrorf wraps err, reduced to its errno. It returns nil for nil.
func sysErrorf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		err = no
	}
	return &sysError{doing: fmt.Sprintf(format, args...), err: err}
}

// Strerror is the text of an error as C programs know it: errno texts begin
// with a capital letter.
func Strerror(err error) string {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return err.Error()
	}
	s := no.Error()
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// LockError says that somebody else uses an image in a way that excludes us.
// It is a driver.ErrLocked.
type LockError struct {
	Perm     string // "consistent read", "write", "write unchanged", "resize"
	Shared   bool   // they do what we do not share; else we want what they do not share
	Filename string
	// Lock is set where a lock byte itself could not be taken.
	Lock int64
	Err  error // of the system, nil for a conflict
}

func (e *LockError) Error() string {
	var s string
	switch {
	case e.Lock != 0:
		s = fmt.Sprintf("Failed to lock byte %d", e.Lock)
	case e.Shared:
		s = fmt.Sprintf("Failed to get shared \"%s\" lock", e.Perm)
	default:
		s = fmt.Sprintf("Failed to get \"%s\" lock", e.Perm)
	}
	if e.Err != nil {
		s += ": " + Strerror(e.Err)
	}
	return s
}

// Hint is a further line for the user.
func (e *LockError) Hint() string {
	return fmt.Sprintf("Is another process using the image [%s]?", e.Filename)
}

// Unwrap returns driver.ErrLocked and the error of the system.
func (e *LockError) Unwrap() []error {
	if e.Err == nil {
		return []error{driver.ErrLocked}
	}
	return []error{driver.ErrLocked, e.Err}
}
