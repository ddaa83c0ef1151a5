package export

import (
	"context"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// Contexts lists what can be asked about.
func (d *Device) Contexts() []string { return d.contexts }

// BlockStatus describes a range in one of the contexts.
func (d *Device) BlockStatus(ctx context.Context, name string, off, n int64, yield func(length int64, flags uint64) bool) error {
	for n > 0 {
		length, flags, err := d.extent(ctx, name, off, n)
		if err != nil {
			return errno(err)
		}
		if length <= 0 { // the disk has become smaller
			length, flags = n, wire.StateHole|wire.StateZero
			if name != wire.ContextAllocation {
				flags = 0
			}
		}
		if !yield(length, flags) {
			return nil
		}
		off, n = off+length, n-length
	}
	return nil
}

func (d *Device) extent(ctx context.Context, name string, off, n int64) (length int64, flags uint64, err error) {
	switch name {
	case wire.ContextAllocation:
		st, err := d.img.Status(ctx, off, n, nil)
		if !st.Data || st.Hole {
			flags |= wire.StateHole
		}
		if st.Zero {
			flags |= wire.StateZero
		}
		return st.Length, flags, err
	case wire.ContextAllocationDepth:
		return depth(ctx, d.img, off, n)
	}
	b, ok := d.bitmaps[name]
	if !ok {
		return 0, 0, driver.Errorf(driver.ErrInvalid, "no context '%s'", name)
	}
	if off >= b.size {
		return n, 0, nil // no write can have reached it
	}
	length, dirty, err := b.in.BitmapExtent(ctx, bitmapName(name), off, min(n, b.size-off))
	if dirty {
		flags = wire.StateDirty
	}
	return length, flags, err
}

func bitmapName(context string) string { return context[len(wire.ContextDirtyBitmap):] }

// depth tells in which layer a range is allocated: 1 is the image itself, 0 means
// nowhere.
func depth(ctx context.Context, img *block.Image, off, n int64) (int64, uint64, error) {
	for layer, d := img, uint64(1); ; d++ {
		st, err := layer.StatusLayer(ctx, off, n)
		if err != nil || st.Allocated || st.Length == 0 {
			return st.Length, d, err
		}
		next := layer.Backing()
		switch {
		case next == nil:
			return st.Length, 0, nil
		case off >= next.Size():
			// Zeroes because the layer below is shorter: they count as allocated there.
			return st.Length, d + 1, nil
		}
		layer, n = next, st.Length
	}
}
