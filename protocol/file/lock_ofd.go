//go:build linux || darwin

package file

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ofdLock sets or tests a lock on one byte of f.
func ofdLock(f *os.File, cmd int, typ int16, at int64) (*unix.Flock_t, error) {
	l := &unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: at, Len: 1}
	err := retry(func() error { return unix.FcntlFlock(f.Fd(), cmd, l) })
	return l, err
}

// lockNode takes image locks, and fails with a LockError if another process holds locks
// to the contrary. All locks go when f is closed; on error, the caller closes f
// or calls unlockNode. held are those that f has. Where the system has no such
// locks nothing is locked, or, if they are required, the error says so.
//
// Every party first announces itself, with shared locks that never conflict,
// and then looks for announcements that exclude it: so of two that come at
// the same time at least one sees the other.
func lockNode(f *os.File, name string, _, want locks, required bool) error {
	for _, at := range want.bytes() {
		if _, err := ofdLock(f, ofdSetLock, unix.F_RDLCK, at); err != nil {
			if errors.Is(err, unix.EINVAL) {
				return lockUnavailable(required)
			}
			return lockFailed(&LockError{Lock: at, Filename: name}, err)
		}
	}
	test := func(at int64, bit int, shared bool) error {
		l, err := ofdLock(f, ofdGetLock, unix.F_WRLCK, at)
		if err != nil || l.Type != unix.F_UNLCK {
			return lockFailed(&LockError{Perm: permNames[bit], Shared: shared, Filename: name}, err)
		}
		return nil
	}
	for bit := range permNames {
		if want.perm>>bit&1 != 0 {
			if err := test(lockUnshared+int64(bit), bit, false); err != nil {
				return err
			}
		}
	}
	for bit := range permNames {
		if want.unshared>>bit&1 != 0 {
			if err := test(lockUsed+int64(bit), bit, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// unlockNode lets go what drop has and keep does not.
func unlockNode(f *os.File, drop, keep locks) {
	drop.perm &^= keep.perm
	drop.unshared &^= keep.unshared
	for _, at := range drop.bytes() {
		_, _ = ofdLock(f, ofdSetLock, unix.F_UNLCK, at) // cannot fail
	}
}

// lockFailed completes l. A conflict on the byte is expected: the errno is dropped.
func lockFailed(l *LockError, err error) error {
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		l.Err = err
	}
	return l
}
