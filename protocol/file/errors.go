package file

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
)

// sysErrorf makes an error of the operating system with what was being done: the
// format is followed by what the system says. errors.Is finds the errno, and through it
// fs.ErrNotExist and its like; a full disk is driver.ErrNoSpace on every system. It
// returns nil for nil.
func sysErrorf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var no syscall.Errno
	if !errors.As(err, &no) {
		return driver.Errorf(nil, format+": %w", append(args, err)...)
	}
	wrapped := driver.Errorf(nil, format+": %w", append(args, no)...)
	if isFull(no) && no != driver.ErrNoSpace {
		return &fullError{wrapped}
	}
	return wrapped
}

// fullError is an error of a system that has a number of its own for a full disk. The
// number stays the first that errors.As finds.
type fullError struct{ error }

func (e *fullError) Is(target error) bool { return target == driver.ErrNoSpace }
func (e *fullError) Unwrap() error        { return e.error }

// Template implements driver.Message.
func (e *fullError) Template() (string, []any) { return "%v", []any{e.error} }

// LockError says that another process uses an image in a way that conflicts with ours.
// It is a driver.ErrLocked.
type LockError struct {
	Perm     string // "consistent read", "write", "write unchanged", "resize"
	Shared   bool   // they do what we do not share; else we want what they do not share
	Filename string
	// Lock is set where a lock byte itself could not be taken.
	Lock int64
	Err  error // of the system, nil for a conflict
}

func (e *LockError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *LockError) Template() (string, []any) {
	format, args := "failed to get \"%s\" lock", []any{e.Perm}
	switch {
	case e.Lock != 0:
		format, args = "failed to lock byte %d", []any{e.Lock}
	case e.Shared:
		format = "failed to get shared \"%s\" lock"
	}
	if e.Err != nil {
		format, args = format+": %v", append(args, e.Err)
	}
	return format, args
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
