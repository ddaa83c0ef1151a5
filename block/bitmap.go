package block

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/block/driver"
)

// BitmapSet is the dirty bitmaps of an image. It stays valid as long as the image is
// open.
type BitmapSet struct{ img *Image }

// Bitmaps returns the dirty bitmaps of the image: also where it can have none, which
// List then tells.
func (img *Image) Bitmaps() BitmapSet { return BitmapSet{img} }

// List lists the dirty bitmaps. ok is false if the image has none and cannot
// have any.
func (s BitmapSet) List(ctx context.Context) (list []driver.BitmapInfo, ok bool, err error) {
	img := s.img
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

// Add adds a dirty bitmap with no bit set, which records every write that
// begins after the call, unless it is disabled.
func (s BitmapSet) Add(ctx context.Context, spec driver.BitmapSpec) error {
	return s.img.changeBitmaps("add bitmap", func(b driver.Bitmapper) error { return b.AddBitmap(ctx, spec) })
}

// Remove removes a dirty bitmap, whatever its state.
func (s BitmapSet) Remove(ctx context.Context, name string) error {
	return s.img.changeBitmaps("remove bitmap", func(b driver.Bitmapper) error { return b.RemoveBitmap(ctx, name) })
}

// Clear unsets all bits of a dirty bitmap.
func (s BitmapSet) Clear(ctx context.Context, name string) error {
	return s.img.changeBitmaps("clear bitmap", func(b driver.Bitmapper) error { return b.ClearBitmap(ctx, name) })
}

// Enable lets a dirty bitmap record writes, or stops it.
func (s BitmapSet) Enable(ctx context.Context, name string, on bool) error {
	return s.img.changeBitmaps("enable bitmap", func(b driver.Bitmapper) error { return b.EnableBitmap(ctx, name, on) })
}

// Set marks a range of the disk in a dirty bitmap.
func (s BitmapSet) Set(ctx context.Context, name string, off, n int64) error {
	return s.img.changeBitmaps("set bitmap", func(b driver.Bitmapper) error { return b.SetBitmap(ctx, name, off, n) })
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

// Extent tells whether the byte at off is dirty in a bitmap, and how many
// bytes from there on, at most n and within the disk, are of the same state.
func (s BitmapSet) Extent(ctx context.Context, name string, off, n int64) (length int64, dirty bool, err error) {
	img := s.img
	b, img, ok := ability[driver.Bitmapper](img)
	if !ok {
		return 0, false, img.fail("read bitmap", off, driver.Errorf(driver.ErrNoBitmap, "dirty bitmap '%s' not found", name))
	}
	img.lock()
	defer img.unlock()
	length, dirty, err = b.BitmapExtent(ctx, name, off, n)
	return length, dirty, img.fail("read bitmap", off, err)
}
