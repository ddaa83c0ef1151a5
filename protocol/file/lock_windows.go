package file

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// The locks of this system keep others from reading and writing what they cover, so they
// are far behind every disk: the bytes of the permissions, and lockGate, which is held while
// locks are looked at and taken.
const (
	lockBase = int64(1) << 62
	lockGate = 1
	gateWait = 10 * time.Second
)

// rangeLock takes a lock on one byte at once, or fails with ERROR_LOCK_VIOLATION.
func rangeLock(f *os.File, at int64, exclusive bool) error {
	flags := uint32(windows.LOCKFILE_FAIL_IMMEDIATELY)
	if exclusive {
		flags |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, place(at))
}

func rangeUnlock(f *os.File, at int64) {
	_ = windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, place(at)) // fails if it is not held
}

func place(at int64) *windows.Overlapped {
	at += lockBase
	return &windows.Overlapped{Offset: uint32(at), OffsetHigh: uint32(at >> 32)}
}

// has tells whether l has the lock byte at an offset.
func (l locks) has(at int64) bool {
	if at >= lockUnshared {
		return l.unshared>>(at-lockUnshared)&1 != 0
	}
	return l.perm>>(at-lockUsed)&1 != 0
}

// lockNode takes those image locks of want that held, which f has, does not have. It fails
// with a LockError if another handle has locks to the contrary; the caller closes f or calls
// unlockNode then, which lets locks be that f does not have. Where files cannot be locked nothing is locked, or, if locks are required,
// the error says so.
//
// A handle's own lock is in the way of a look at the byte. So all that look or take hold
// the gate, and the own lock is given up for the look.
func lockNode(f *os.File, name string, held, want locks, required bool) error {
	if err := enterGate(f); err != nil {
		if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
			return &LockError{Lock: lockGate, Filename: name, Err: err}
		}
		return lockUnavailable(required)
	}
	defer rangeUnlock(f, lockGate)
	for bit, perm := range permNames {
		if want.perm>>bit&1 != 0 && taken(f, held, lockUnshared+int64(bit)) {
			return &LockError{Perm: perm, Shared: false, Filename: name}
		}
	}
	for bit, perm := range permNames {
		if want.unshared>>bit&1 != 0 && taken(f, held, lockUsed+int64(bit)) {
			return &LockError{Perm: perm, Shared: true, Filename: name}
		}
	}
	for _, at := range want.bytes() {
		if held.has(at) {
			continue
		}
		if err := rangeLock(f, at, false); err != nil {
			return &LockError{Lock: at, Filename: name, Err: err}
		}
		held = held.with(at)
	}
	return nil
}

// with is l and the lock byte at an offset.
func (l locks) with(at int64) locks {
	if at >= lockUnshared {
		l.unshared |= 1 << (at - lockUnshared)
	} else {
		l.perm |= 1 << (at - lockUsed)
	}
	return l
}

// enterGate waits for the gate, which others hold for a moment.
func enterGate(f *os.File) error {
	for end := time.Now().Add(gateWait); ; time.Sleep(time.Millisecond) {
		err := rangeLock(f, lockGate, true)
		if err == nil || !errors.Is(err, windows.ERROR_LOCK_VIOLATION) || time.Now().After(end) {
			return err
		}
	}
}

// taken tells whether another handle has locked a byte. The gate is held.
func taken(f *os.File, held locks, at int64) bool {
	if held.has(at) {
		rangeUnlock(f, at)
		defer func() { _ = rangeLock(f, at, false) }() // cannot fail: shared locks only, by the gate
	}
	if rangeLock(f, at, true) != nil {
		return true
	}
	rangeUnlock(f, at)
	return false
}

// unlockNode lets go what drop has and keep does not.
func unlockNode(f *os.File, drop, keep locks) {
	drop.perm &^= keep.perm
	drop.unshared &^= keep.unshared
	for _, at := range drop.bytes() {
		rangeUnlock(f, at)
	}
}
