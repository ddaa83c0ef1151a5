package file

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/block/driver"
)

var _ driver.RangeCopier = (*node)(nil)

// CopyFrom implements driver.RangeCopier between two nodes of this package. It
// may copy less than asked for: sharing blocks works in whole ones. What it
// copied includes holes of the source, which read as zeroes afterwards.
func (n *node) CopyFrom(ctx context.Context, src driver.Storage, srcOff, dstOff, length int64, mode driver.CopyMode) (int64, error) {
	if err := n.checkWrite(ctx, dstOff, length); err != nil {
		return 0, err
	}
	from, ok := driver.Unwrap(src).(*node)
	if !ok || n.device || from.device {
		return 0, driver.ErrUnsupported
	}
	if length == 0 {
		if mode&driver.CopyOffload == 0 && n.fsBlock == 0 {
			return 0, driver.ErrUnsupported
		}
		return 0, nil
	}
	if err := from.check(ctx, srcOff, length); err != nil {
		return 0, err
	}
	if length = min(length, from.Size()-srcOff); length <= 0 {
		return 0, driver.ErrUnsupported
	}
	unlock, err := n.lockForZero(ctx, dstOff, length)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if dstOff+length > n.Size() {
		n.sizeMu.RLock()
		defer n.sizeMu.RUnlock()
	}
	defer n.changed()
	if mode&driver.CopyReflink != 0 {
		done, err := n.reflink(from, srcOff, dstOff, length)
		if done > 0 || !errors.Is(err, driver.ErrUnsupported) || mode&driver.CopyOffload == 0 {
			return done, err
		}
	}
	if mode&driver.CopyOffload != 0 {
		return n.offload(ctx, from, srcOff, dstOff, length)
	}
	return 0, driver.ErrUnsupported
}
