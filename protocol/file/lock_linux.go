package file

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/block/driver"
)

// The bytes of a file that stand for permissions: one range for those in use,
// one for those that are not shared.
const (
	lockUsed     = 100
	lockUnshared = 200
)

// permNames are the permissions, by bit.
var permNames = [...]string{"consistent read", "write", "write unchanged", "resize"}

// ofdLock sets or tests a lock on one byte of f.
func ofdLock(f *os.File, cmd int, typ int16, at int64) (*unix.Flock_t, error) {
	l := &unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: at, Len: 1}
	err := retry(func() error { return unix.FcntlFlock(f.Fd(), cmd, l) })
	return l, err
}

// lockNode takes the image locks for what we do and what others may do, and
// fails with a LockError if somebody holds locks to the contrary. All locks go
// when f is closed; on error, the caller closes f. Where the system has no such
// locks nothing is locked, or, if they are required, the error says so.
//
// Every party first announces itself, with shared locks that never conflict,
// and then looks for announcements that exclude it: so of two that come at
// the same time at least one sees the other.
func lockNode(f *os.File, name string, perm, shared driver.Perm, required bool) error {
	for bit := range permNames {
		for _, l := range []struct {
			take bool
			base int64
		}{{perm>>bit&1 != 0, lockUsed}, {shared>>bit&1 == 0, lockUnshared}} {
			if !l.take {
				continue
			}
			at := l.base + int64(bit)
			if _, err := ofdLock(f, unix.F_OFD_SETLK, unix.F_RDLCK, at); err != nil {
				if errors.Is(err, unix.EINVAL) {
					return lockUnavailable(required)
				}
				return lockFailed(&LockError{Lock: at, Filename: name}, err)
			}
		}
	}
	test := func(at int64, bit int, shared bool) error {
		l, err := ofdLock(f, unix.F_OFD_GETLK, unix.F_WRLCK, at)
		if err != nil || l.Type != unix.F_UNLCK {
			return lockFailed(&LockError{Perm: permNames[bit], Shared: shared, Filename: name}, err)
		}
		return nil
	}
	for bit := range permNames {
		if perm>>bit&1 != 0 {
			if err := test(lockUnshared+int64(bit), bit, false); err != nil {
				return err
			}
		}
	}
	for bit := range permNames {
		if shared>>bit&1 == 0 {
			if err := test(lockUsed+int64(bit), bit, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// lockFailed completes l. That a byte is locked is no news worth the errno.
func lockFailed(l *LockError, err error) error {
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		l.Err = err
	}
	return l
}
