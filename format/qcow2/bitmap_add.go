package qcow2

import (
	"context"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// The default granularity is the cluster size, within these.
const (
	minDefaultGranularity = 4096
	maxDefaultGranularity = 65536
)

// AddBitmap adds a bitmap.
func (im *image) AddBitmap(ctx context.Context, spec driver.BitmapSpec) error {
	g := spec.Granularity
	if g == 0 {
		g = min(max(im.clusterSize, minDefaultGranularity), maxDefaultGranularity)
	}
	switch {
	case spec.Name == "":
		return driver.Errorf(driver.ErrInvalid, "Bitmap name cannot be empty")
	case g < 1<<ondisk.MinGranularityBits || g > 1<<ondisk.MaxGranularityBits || g&(g-1) != 0:
		return driver.Errorf(driver.ErrInvalid, "Granularity must be power of 2 and at least 512")
	}
	s := &im.bm
	shift := uint(bits.TrailingZeros64(uint64(g)))
	s.mu.RLock()
	err := im.canAddBitmap(spec.Name, shift)
	s.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := im.canAddBitmap(spec.Name, shift); err != nil { // somebody else may have been faster
		return err
	}
	b := &bitmap{name: spec.Name, shift: shift, size: im.size.Load(), enabled: !spec.Disabled, fresh: true}
	set, err := newBitSet(b.size, shift, im.env.Budget)
	if err != nil {
		return err
	}
	b.bits.Store(set)
	s.list = append(s.list[:len(s.list):len(s.list)], b)
	s.dirty = true
	s.publish()
	return nil
}

// canAddBitmap says whether there may be a further bitmap. bm.mu is held.
func (im *image) canAddBitmap(name string, shift uint) error {
	s := &im.bm
	if _, err := s.find(name); err == nil {
		return driver.Errorf(driver.ErrInvalid, "Bitmap already exists: %s", name)
	}
	refuse := func(kind error, format string, args ...any) error {
		return driver.Errorf(kind, "Can't make bitmap '%s' persistent in '%s': %w", name, im.name, fmt.Errorf(format, args...))
	}
	if im.version < 3 {
		return refuse(driver.ErrUnsupported, "Cannot store dirty bitmaps in qcow2 v2 files")
	}
	if err := im.bitmapFits(im.size.Load(), shift); err != nil {
		return refuse(driver.ErrRange, "%w", err)
	}
	if err := im.bitmapsFitHeader(); err != nil {
		return refuse(driver.ErrRange, "%w", err)
	}
	if len(name) > ondisk.MaxBitmapName {
		return refuse(driver.ErrInvalid, "Name length exceeds maximum (%d characters)", ondisk.MaxBitmapName)
	}
	for i := range len(name) {
		if name[i] == 0 {
			return driver.Errorf(driver.ErrInvalid, "the name of a bitmap cannot contain a zero byte")
		}
	}
	size := (&ondisk.Bitmap{Name: name}).Size()
	for _, b := range s.list {
		size += (&ondisk.Bitmap{Name: b.name, Extra: b.extra}).Size()
	}
	switch {
	case len(s.list) >= ondisk.MaxBitmaps:
		return refuse(driver.ErrRange, "Maximum number of persistent bitmaps is already reached")
	case size > ondisk.MaxBitmapDirectory:
		return refuse(driver.ErrRange, "Not enough space in the bitmap directory")
	}
	return nil
}

// bitmapsFitHeader says whether the header has room for the bitmaps extension, so
// that Close does not find out.
func (im *image) bitmapsFitHeader() error {
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	if im.bitmapsExt.Count > 0 {
		return nil
	}
	exts := im.exts
	defer func() { im.exts = exts }()
	im.exts = append(slices.Clone(exts), ondisk.Extension{Type: ondisk.ExtBitmaps, Data: ondisk.BitmapsExtension{}.Append(nil)})
	_, err := im.encodeHeader(0)
	return err
}

// bitmapFits says whether a bitmap of a disk of size bytes can be stored.
func (im *image) bitmapFits(size int64, shift uint) error {
	n := ondisk.BitmapTableSize(size, uint8(shift), im.clusterBits)
	switch {
	case n == 0:
		return driver.Errorf(driver.ErrRange, "a disk of size zero cannot have bitmaps")
	case n > ondisk.MaxBitmapTable || n<<im.clusterBits > ondisk.MaxBitmapBytes:
		return driver.Errorf(driver.ErrRange, "Too much space will be occupied by the bitmap. Use larger granularity")
	}
	return nil
}

// prepareResize makes the bitmaps ready for another size of the disk: all in use,
// and large enough for both. It refuses what cannot be. The function that it returns
// must be called with the size that the disk has in the end.
func (im *image) prepareResize(ctx context.Context, size int64) (finish func(size int64) error, err error) {
	s := &im.bm
	s.mu.Lock()
	defer s.mu.Unlock()
	nothing := func(int64) error { return nil }
	if len(s.list)+len(s.gone) == 0 || size == im.size.Load() {
		return nothing, nil
	}
	// On disk those that were removed are still there, as if they were true.
	var gone []*bitmap
	for _, b := range s.gone {
		if b.flags&ondisk.BitmapInUse == 0 {
			gone = append(gone, b)
		}
	}
	if err := im.writeFlags(ctx, gone, func(b *bitmap) uint32 { return b.flags | ondisk.BitmapInUse }); err != nil {
		return nil, err
	}
	for _, b := range s.list {
		if err := im.bitmapFits(size, b.shift); err != nil {
			return nil, driver.Errorf(driver.ErrRange, "Bitmap '%s' doesn't satisfy the constraints: %w", b.name, err)
		}
	}
	if err := im.useBitmaps(ctx, func(*bitmap) bool { return true }); err != nil {
		return nil, err
	}
	old := im.size.Load()
	if err := im.resizeBitmaps(max(size, old)); err != nil {
		_ = im.resizeBitmaps(old) // what stays too large is not stored
		return nil, err
	}
	return func(size int64) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return im.resizeBitmaps(size)
	}, nil
}

// checkBitmaps refuses a change of the size while there are bitmaps that are not
// true: nobody could tell later what they are for.
func (im *image) checkBitmaps() error {
	s := &im.bm
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, b := range s.list {
		if b.inconsistent {
			return b.errInconsistent()
		}
	}
	return nil
}

// resizeBitmaps makes all bitmaps those of a disk of size bytes. bm.mu is held alone.
func (im *image) resizeBitmaps(size int64) error {
	for _, b := range im.bm.list {
		old := b.bits.Load()
		if b.size == size || old == nil {
			continue
		}
		set, err := old.resized(size)
		if err != nil {
			return err
		}
		b.bits.Store(set)
		b.size = size
		old.release()
	}
	im.bm.publish()
	return nil
}
