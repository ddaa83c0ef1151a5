package file

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	if err := n.checkWrite(ctx, off, length); err != nil || length == 0 {
		return err
	}
	unlock, err := n.lockForZero(ctx, off, length)
	if err != nil {
		return err
	}
	defer unlock()
	defer n.changed()
	if n.device {
		return n.zeroDevice(off, length, flags)
	}
	return n.zeroFile(off, length, flags)
}

// Discard implements driver.Discarder. Discarded ranges of files read as
// zeroes; those of devices as anything.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	if err := n.check(ctx, off, length); err != nil {
		return err
	}
	if !n.write {
		return driver.Errorf(driver.ErrReadOnly, "'%s' is open for reading", n.name)
	}
	if length = min(length, n.Size()-off); length <= 0 {
		return nil
	}
	unlock, err := n.lockForZero(ctx, off, length)
	if err != nil {
		return err
	}
	defer unlock()
	defer n.changed()
	if n.device {
		return n.discardDevice(off, length)
	}
	return n.punch(off, length)
}

// extend makes the file at least end bytes long.
func (n *node) extend(end int64) error {
	n.sizeMu.Lock()
	defer n.sizeMu.Unlock()
	if n.Size() >= end {
		return nil
	}
	// Nothing that this node does can make the file longer now, so that the
	// length cannot be set to less than it is.
	if err := n.f.Truncate(end); err != nil {
		return sysErrorf(err, "could not resize file")
	}
	n.grown(end)
	return nil
}
