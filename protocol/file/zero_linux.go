package file

import (
	"errors"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/block/driver"
)

// unsupported tells whether err means that the host cannot do this at all.
func unsupported(err error) bool {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOTTY):
		return true
	}
	return false
}

// fallocate calls fallocate(2), unless never says that it is useless. The answer
// is driver.ErrUnsupported, an error, or nil.
func (n *node) fallocate(mode uint32, off, length int64, never *atomic.Bool) error {
	if never.Load() {
		return driver.ErrUnsupported
	}
	err := retry(func() error { return unix.Fallocate(int(n.fd), mode, off, length) })
	switch {
	case err == nil:
		return nil
	case unsupported(err):
		never.Store(true)
		return driver.ErrUnsupported
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EBUSY):
		// Some file systems refuse unaligned ranges, swap files are busy.
		return driver.ErrUnsupported
	}
	return sysErrorf(err, "could not change the allocation of '%s' at offset %d", n.name, off)
}

// retry repeats f while signals interrupt it.
func retry(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}

// punch makes a hole in a file.
func (n *node) punch(off, length int64) error {
	return n.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length, &n.features.noPunch)
}

// zeroFile makes a range of a file zero, extending the file where it ends
// before. With ZeroMayUnmap it becomes a hole, else it has room on disk.
func (n *node) zeroFile(off, length int64, flags driver.ZeroFlags) error {
	end := off + length
	isUnsupported := func(err error) bool { return errors.Is(err, driver.ErrUnsupported) }
	if flags&driver.ZeroMayUnmap != 0 {
		err := error(nil)
		if in := min(end, n.Size()) - off; in > 0 {
			err = n.punch(off, in)
		}
		if err == nil {
			return n.extend(end)
		}
		if !isUnsupported(err) {
			return err
		}
	}
	if end > n.Size() {
		n.sizeMu.RLock()
		defer n.sizeMu.RUnlock()
	}
	err := n.fallocate(unix.FALLOC_FL_ZERO_RANGE, off, length, &n.features.noZeroRange)
	if isUnsupported(err) && !n.features.noFallocate.Load() {
		if err = n.punch(off, length); err == nil {
			err = n.fallocate(0, off, length, &n.features.noFallocate)
		}
	}
	if isUnsupported(err) && off >= n.Size() {
		err = n.fallocate(0, off, length, &n.features.noFallocate)
	}
	if err == nil {
		n.grown(end)
	}
	return err
}

// zeroDevice makes a range of a device zero. fallocate is asked first, because
// it never writes zeroes the slow way by itself.
func (n *node) zeroDevice(off, length int64, flags driver.ZeroFlags) error {
	if off%n.sector != 0 || length%n.sector != 0 {
		return driver.ErrUnsupported
	}
	if flags&driver.ZeroMayUnmap != 0 {
		if err := n.punch(off, length); !errors.Is(err, driver.ErrUnsupported) {
			return err
		}
	}
	err := n.fallocate(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length, &n.features.noZeroRange)
	if !errors.Is(err, driver.ErrUnsupported) || flags&driver.ZeroNoFallback != 0 {
		return err
	}
	return n.rangeIoctl(unix.BLKZEROOUT, off, length, &n.features.noZeroOut)
}

// discardDevice gives the room of a range of a device back.
func (n *node) discardDevice(off, length int64) error {
	if off%n.sector != 0 || length%n.sector != 0 {
		return driver.ErrUnsupported
	}
	return n.rangeIoctl(unix.BLKDISCARD, off, length, &n.features.noDiscard)
}
