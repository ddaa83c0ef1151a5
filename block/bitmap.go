package block

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/block/driver"
)

// Bitmaps lists the dirty bitmaps. ok is false if the image has none and cannot
// have any.
func (img *Image) Bitmaps(ctx context.Context) (list []driver.BitmapInfo, ok bool, err error) {
	b, img, ok := ability[driver.Bitmapper](img)
	if !ok {
		return nil, false, nil
	}
	img.lock()
	defer img.unlock()
	list, err = b.Bitmaps(ctx)
	if errors.Is(err, driver.ErrUnsupported) {
		return nil, false, nil
	}
	return list, true, img.fail("list bitmaps", -1, err)
}

// AddBitmap adds a dirty bitmap with no bit set, which records every write that
// begins after the call, unless it is disabled.
func (img *Image) AddBitmap(ctx context.Context, spec driver.BitmapSpec) error {
	return img.changeBitmaps("add bitmap", func(b driver.Bitmapper) error { return b.AddBitmap(ctx, spec) })
}

// RemoveBitmap removes a dirty bitmap, whatever its state.
func (img *Image) RemoveBitmap(ctx context.Context, name string) error {
	return img.changeBitmaps("remove bitmap", func(b driver.Bitmapper) error { return b.RemoveBitmap(ctx, name) })
}

// ClearBitmap unsets all bits of a dirty bitmap.
func (img *Image) ClearBitmap(ctx context.Context, name string) error {
	return img.changeBitmaps("clear bitmap", func(b driver.Bitmapper) error { return b.ClearBitmap(ctx, name) })
}

// EnableBitmap lets a dirty bitmap record writes, or stops it.
func (img *Image) EnableBitmap(ctx context.Context, name string, on bool) error {
	return img.changeBitmaps("enable bitmap", func(b driver.Bitmapper) error { return b.EnableBitmap(ctx, name, on) })
}

// SetBitmap marks a range of the disk in a dirty bitmap.
func (img *Image) SetBitmap(ctx context.Context, name string, off, n int64) error {
	return img.changeBitmaps("set bitmap", func(b driver.Bitmapper) error { return b.SetBitmap(ctx, name, off, n) })
}

// changeBitmaps runs f while no write is under way: a write happens wholly
// before or after it.
func (img *Image) changeBitmaps(op string, f func(driver.Bitmapper) error) error {
	b, img, ok := ability[driver.Bitmapper](img)
	if !ok {
		return img.fail(op, -1, driver.Errorf(driver.ErrUnsupported, "can't store persistent bitmaps to %s: operation not supported", img.name))
	}
	if err := img.checkWritable(op, -1); err != nil {
		return err
	}
	img.changing.Lock()
	defer img.changing.Unlock()
	img.lock()
	defer img.unlock()
	return img.fail(op, -1, f(b))
}

// BitmapExtent tells whether the byte at off is dirty in a bitmap, and how many
// bytes from there on, at most n and within the disk, are of the same state.
func (img *Image) BitmapExtent(ctx context.Context, name string, off, n int64) (length int64, dirty bool, err error) {
	b, img, ok := ability[driver.Bitmapper](img)
	if !ok {
		return 0, false, img.fail("read bitmap", off, driver.Errorf(driver.ErrNoBitmap, "dirty bitmap '%s' not found", name))
	}
	img.lock()
	defer img.unlock()
	length, dirty, err = b.BitmapExtent(ctx, name, off, n)
	return length, dirty, img.fail("read bitmap", off, err)
}
