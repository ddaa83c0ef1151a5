package ops

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
)

// ErrShrink is returned by Resize for a smaller size without
// ResizeJob.Shrink.
var ErrShrink = errors.New("the new size is smaller")

// ResizeJob says how to resize an image, which is open for writing and resizing.
type ResizeJob struct {
	Image    *block.Image
	Size     int64 // bytes, above zero
	Shrink   bool  // allow a smaller size, which loses the data behind it
	Prealloc driver.Prealloc
}

// Resize changes the size of a disk. Preallocation is for growing only.
func Resize(ctx context.Context, job ResizeJob) error {
	current := job.Image.Size()
	prealloc := job.Prealloc
	if prealloc == "" {
		prealloc = driver.PreallocOff
	}
	if job.Size <= 0 {
		return driver.Errorf(driver.ErrInvalid, "new image size must be positive")
	}
	if job.Size <= current && prealloc != driver.PreallocOff {
		return driver.Errorf(driver.ErrInvalid, "preallocation can only be used for growing images")
	}
	if job.Size < current && !job.Shrink {
		return driver.Errorf(driver.ErrInvalid, "%w", ErrShrink)
	}
	return job.Image.Resize(ctx, job.Size, driver.ResizeOptions{Prealloc: prealloc, Exact: true})
}
