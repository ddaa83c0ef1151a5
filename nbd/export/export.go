// Package export makes a device for nbd/server of an open image: reads and writes
// go through the block layer, block status is what its map says, dirty bitmaps are
// those of the format.
package export

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// Options say what an export offers.
type Options struct {
	// AllocationDepth offers the context qemu:allocation-depth.
	AllocationDepth bool
	// Bitmaps names the dirty bitmaps to offer, of the image or of an image that it
	// is backed by.
	Bitmaps []string
}

// Device is an image as a server.Device. If the image is open for writing, so is
// the device. It does not own the image: close the image after the server has released the device.
type Device struct {
	img      *block.Image
	contexts []string
	bitmaps  map[string]bitmap // by context
	file     plainFile
}

// bitmap is a dirty bitmap of a layer, which has size bytes: the disk may be larger.
type bitmap struct {
	in   driver.Bitmapper
	size int64
}

// writable is a Device that has the methods which change the image.
type writable struct{ *Device }

// New returns a device for img, a *Device or something with its methods and those
// for writing.
func New(ctx context.Context, img *block.Image, o Options) (server.Device, error) {
	d := &Device{img: img, contexts: []string{wire.ContextAllocation}, bitmaps: map[string]bitmap{}}
	d.file = findFile(ctx, img)
	if o.AllocationDepth {
		d.contexts = append(d.contexts, wire.ContextAllocationDepth)
	}
	for _, name := range o.Bitmaps {
		if err := d.addBitmap(ctx, name); err != nil {
			return nil, err
		}
	}
	if img.Writable() {
		return writable{d}, nil
	}
	return d, nil
}

// addBitmap finds a bitmap in the image or the ones below.
func (d *Device) addBitmap(ctx context.Context, name string) error {
	for layer := d.img; layer != nil; layer = layer.Backing() {
		b, ok := layer.Tree().Node().(driver.Bitmapper)
		if !ok {
			continue
		}
		list, err := b.Bitmaps(ctx)
		if err != nil {
			return err
		}
		k := slices.IndexFunc(list, func(i driver.BitmapInfo) bool { return i.Name == name })
		if k < 0 {
			continue
		}
		switch {
		case list[k].Inconsistent:
			return driver.Errorf(driver.ErrBitmaps, "bitmap '%s' is inconsistent and cannot be used", name)
		case list[k].Enabled && !d.img.Writable() && layer.Writable():
			return driver.Errorf(driver.ErrBitmaps, "enabled bitmap '%s' incompatible with readonly export", name)
		}
		context := wire.ContextDirtyBitmap + name
		if err := wire.CheckString(context); err != nil {
			return fmt.Errorf("bitmap '%s': %w", name, err)
		}
		if _, twice := d.bitmaps[context]; !twice {
			d.bitmaps[context] = bitmap{b, layer.Size()}
			d.contexts = append(d.contexts, context)
		}
		return nil
	}
	return driver.Errorf(driver.ErrInvalid, "bitmap '%s' is not found", name)
}

// Size returns the size of the disk.
func (d *Device) Size() int64 { return d.img.Size() }

// Limits returns what the image prefers.
func (d *Device) Limits() wire.BlockSize {
	l := d.img.Limits()
	s := wire.BlockSize{Min: 1, Preferred: 4096, Max: wire.MaxPayload}
	if a := l.RequestAlignment; a > 1 && a <= 64<<10 && a&(a-1) == 0 {
		s.Min = uint32(a)
		s.Preferred = max(s.Preferred, s.Min)
	}
	if want := l.OptTransfer; want > int64(s.Preferred) && want <= wire.MaxPayload && want&(want-1) == 0 {
		s.Preferred = uint32(want)
	}
	return s
}

// SmallRequests implements server.SmallRequester: the block layer cuts and widens
// requests as the image wants them.
func (d *Device) SmallRequests() {}

// errno gives an error of the block layer the number that clients know.
func errno(err error) error {
	kind := wire.Errno(0)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, driver.ErrReadOnly):
		kind = wire.EPERM
	case errors.Is(err, driver.ErrUnsupported):
		kind = wire.ENOTSUP
	case errors.Is(err, driver.ErrNoSpace), errors.Is(err, driver.ErrTooLarge):
		kind = wire.ENOSPC // also where it is a range beyond the end of a device
	case errors.Is(err, driver.ErrRange), errors.Is(err, driver.ErrInvalid):
		kind = wire.EINVAL
	default:
		return err
	}
	return fmt.Errorf("%w (%w)", err, kind)
}

// ReadAt reads from the disk.
func (d *Device) ReadAt(ctx context.Context, p []byte, off int64) error {
	n, err := d.img.ReadAt(ctx, p, off)
	if n == len(p) {
		return nil
	}
	return errno(err)
}

// Cache reads a range to fill the caches.
func (d *Device) Cache(ctx context.Context, off, n int64) error {
	const step = 256 << 10
	buf := bufpool.Get(step)
	defer bufpool.Put(buf)
	for n > 0 {
		m := min(n, step)
		if err := d.ReadAt(ctx, buf[:m], off); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}

// WriteAt writes to the disk.
func (d writable) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	_, err := d.img.WriteAt(ctx, p, off)
	if err == nil && fua && !d.img.CacheMode().WriteThrough {
		err = d.img.Flush(ctx)
	}
	return errno(err)
}

// Flush makes durable what was written.
func (d writable) Flush(ctx context.Context) error { return errno(d.img.Flush(ctx)) }

// Trim passes on that a range is no longer needed.
func (d writable) Trim(ctx context.Context, off, n int64) error {
	return errno(d.img.Discard(ctx, off, n))
}

// WriteZeroes makes a range read as zeroes.
func (d writable) WriteZeroes(ctx context.Context, off, n int64, flags server.ZeroFlags) error {
	var f driver.ZeroFlags
	if flags&server.ZeroNoHole == 0 {
		f |= driver.ZeroMayUnmap
	}
	if flags&server.ZeroFast != 0 {
		f |= driver.ZeroNoFallback
	}
	return errno(d.img.WriteZeroes(ctx, off, n, f))
}
