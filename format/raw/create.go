package raw

import (
	"context"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
)

// Create implements driver.Creator: the file gets its size, rounded up to whole
// sectors. A device keeps the size it has.
func (rawDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	var o createOptions
	if err := desc.CreateOptions.Decode(req.Options, &o); err != nil {
		return err
	}
	if req.Size < 0 || req.Size > math.MaxInt64-sectorSize {
		return driver.Errorf(driver.ErrInvalid, "image size must be less than 8 EiB")
	}
	size := roundUp(req.Size)
	r, ok := req.File.(driver.Resizer)
	if !ok {
		if req.File.Size() < size {
			return driver.Errorf(driver.ErrUnsupported, "the image has %d bytes and cannot grow to %d", req.File.Size(), size)
		}
		return nil
	}
	// Nothing is written but the size, so that there is nothing to flush.
	return r.Resize(ctx, size, driver.ResizeOptions{})
}

// Measure implements driver.Measurer: holes count, since they are part of the
// length of the file.
func (rawDriver) Measure(_ context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	var o createOptions
	if err := desc.CreateOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	if req.Size < 0 {
		return nil, driver.Errorf(driver.ErrInvalid, "negative size")
	}
	size := roundUp(req.Size)
	return &driver.Measured{Required: size, FullyAllocated: size}, nil
}
