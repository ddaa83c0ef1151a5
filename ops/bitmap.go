package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
)

// findBitmap returns the description of a bitmap.
func findBitmap(ctx context.Context, img *block.Image, name string) (driver.BitmapInfo, error) {
	list, _, err := img.Bitmaps().List(ctx)
	if err != nil {
		return driver.BitmapInfo{}, err
	}
	for _, b := range list {
		if b.Name == name {
			return b, nil
		}
	}
	return driver.BitmapInfo{}, driver.Errorf(driver.ErrNoBitmap, "dirty bitmap '%s' not found", name)
}

// MergeBitmap marks in bitmap name of dst what is dirty in bitmap from of src, which
// may be the same image. The disks must be of the same size; granularities may
// differ: then whole granules of dst are marked. ErrNoBitmap, ErrBitmaps and
// ErrInvalid are returned before anything is changed.
func MergeBitmap(ctx context.Context, dst *block.Image, name string, src *block.Image, from string) error {
	to, err := findBitmap(ctx, dst, name)
	if err != nil {
		return err
	}
	of, err := findBitmap(ctx, src, from)
	if err != nil {
		return err
	}
	if to.Inconsistent || of.Inconsistent {
		img, bad := dst, name
		if !to.Inconsistent {
			img, bad = src, from
		}
		_, _, err := img.Bitmaps().Extent(ctx, bad, 0, 1)
		return err
	}
	if to.Size != of.Size {
		return driver.Errorf(driver.ErrInvalid, "bitmaps are of different sizes (destination size is %d, source size is %d) and can't be merged", to.Size, of.Size)
	}
	if dst == src && name == from {
		return nil
	}
	for off := int64(0); off < of.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, dirty, err := src.Bitmaps().Extent(ctx, from, off, of.Size-off)
		if err != nil {
			return err
		}
		if dirty {
			if err := dst.Bitmaps().Set(ctx, name, off, n); err != nil {
				return err
			}
		}
		off += n
	}
	return nil
}

// RemoveBitmaps removes all bitmaps of an image, whatever their state. An image may
// have none.
func RemoveBitmaps(ctx context.Context, img *block.Image) error {
	list, _, err := img.Bitmaps().List(ctx)
	if err != nil {
		return err
	}
	for _, b := range list {
		if err := img.Bitmaps().Remove(ctx, b.Name); err != nil {
			return err
		}
	}
	return nil
}

// BitmapError says which bitmap could not be copied, and at what.
type BitmapError struct {
	Op   string // "create" or "populate"
	Name string
	Err  error
}

func (e *BitmapError) Error() string { return driver.Text(e) }
func (e *BitmapError) Unwrap() error { return e.Err }

// Template implements driver.Message.
func (e *BitmapError) Template() (string, []any) {
	return "failed to %s bitmap %s: %v", []any{e.Op, e.Name, e.Err}
}

// InconsistentBitmapError says that a bitmap cannot be copied because it is
// inconsistent. It is driver.ErrBitmaps.
type InconsistentBitmapError struct{ Name string }

func (e *InconsistentBitmapError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *InconsistentBitmapError) Template() (string, []any) {
	return "cannot copy inconsistent bitmap '%s'", []any{e.Name}
}

// Is recognises the kind.
func (e *InconsistentBitmapError) Is(target error) bool { return target == driver.ErrBitmaps }

// Hint tells what to do.
func (e *InconsistentBitmapError) Hint() string {
	return "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it"
}

// CheckBitmaps says whether CopyBitmaps can copy from src: ErrUnsupported if it
// cannot have bitmaps; ErrBitmaps if it has inconsistent ones, unless those are
// to be left out.
func CheckBitmaps(ctx context.Context, src *block.Image, skipInconsistent bool) error {
	list, ok, err := src.Bitmaps().List(ctx)
	if err != nil {
		return err
	}
	if !ok {
		return driver.Errorf(driver.ErrUnsupported, "source lacks bitmap support")
	}
	// QEMU lists the last one first.
	for _, b := range slices.Backward(list) {
		if b.Inconsistent && !skipInconsistent {
			return &InconsistentBitmapError{b.Name}
		}
	}
	return nil
}

// CopyBitmaps adds the bitmaps of src, with their state, to dst. Inconsistent ones are
// left out and reported to warn. A bitmap that could not be copied completely is
// removed from dst again; those before it stay.
func CopyBitmaps(ctx context.Context, src, dst *block.Image, warn func(string)) error {
	list, _, err := src.Bitmaps().List(ctx)
	if err != nil {
		return err
	}
	for _, b := range slices.Backward(list) {
		if b.Inconsistent && warn != nil {
			warn(fmt.Sprintf("Skipping inconsistent bitmap '%s'", b.Name))
		}
	}
	for _, b := range list {
		if b.Inconsistent {
			continue
		}
		err := dst.Bitmaps().Add(ctx, driver.BitmapSpec{Name: b.Name, Granularity: b.Granularity, Disabled: !b.Enabled})
		if err != nil {
			return &BitmapError{"create", b.Name, err}
		}
		if err := MergeBitmap(ctx, dst, b.Name, src, b.Name); err != nil {
			err = errors.Join(err, dst.Bitmaps().Remove(context.WithoutCancel(ctx), b.Name))
			return &BitmapError{"populate", b.Name, err}
		}
	}
	return nil
}
