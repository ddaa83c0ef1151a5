package block

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

var _ driver.Viewer = (*Image)(nil)

// View implements driver.Viewer, for ranges whose bytes are in one piece in a child that
// does. Room that is looked at is not freed before look returns.
func (img *Image) View(ctx context.Context, off, length int64, look func(p []byte)) bool {
	if img.closed.Load() || off < 0 || length <= 0 || length > img.Size()-off {
		return false
	}
	if img.storage != nil {
		v, ok := img.storage.(driver.Viewer)
		return ok && v.View(ctx, off, length, look)
	}
	defer img.guard.Exit(img.guard.Enter())
	img.lock()
	ext, err := img.format.Map(ctx, off, length)
	img.unlock()
	if err != nil || ext.Kind != driver.ExtentData || ext.Length < length {
		return false
	}
	v, ok := ext.Child.(driver.Viewer)
	return ok && v.View(ctx, ext.HostOffset, length, look)
}
