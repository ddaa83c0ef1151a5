package bitmaps

import (
	"context"
	"math/bits"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// The default granularity is the cluster size, within these.
const (
	minDefaultGranularity = 4096
	maxDefaultGranularity = 65536
)

// Add adds a bitmap.
func (s *Set) Add(ctx context.Context, spec driver.BitmapSpec) error {
	g := spec.Granularity
	if g == 0 {
		g = min(max(s.clusterSize(), minDefaultGranularity), maxDefaultGranularity)
	}
	switch {
	case spec.Name == "":
		return driver.Errorf(driver.ErrInvalid, "bitmap name cannot be empty")
	case g < 1<<ondisk.MinGranularityBits || g > 1<<ondisk.MaxGranularityBits || g&(g-1) != 0:
		return driver.Errorf(driver.ErrInvalid, "granularity must be power of 2 and at least 512")
	}
	shift := uint(bits.TrailingZeros64(uint64(g)))
	s.mu.RLock()
	err := s.canAdd(spec.Name, shift)
	s.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := s.host.BeginWrite(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.canAdd(spec.Name, shift); err != nil { // another call may have added it meanwhile
		return err
	}
	b := &bitmap{name: spec.Name, shift: shift, size: s.host.DiskSize(), enabled: !spec.Disabled, fresh: true}
	set, err := newBitSet(b.size, shift, s.env.Budget)
	if err != nil {
		return err
	}
	b.bits.Store(set)
	s.list = append(s.list[:len(s.list):len(s.list)], b)
	s.dirty = true
	s.publish()
	return nil
}

// canAdd says whether there may be a further bitmap. bm.mu is held.
func (s *Set) canAdd(name string, shift uint) error {
	if _, err := s.find(name); err == nil {
		return driver.Errorf(driver.ErrExists, "bitmap already exists: %s", name)
	}
	refuse := func(kind error, format string, args ...any) error {
		return driver.Errorf(kind, "can't make bitmap '%s' persistent in '%s': %w", name, s.name, driver.Errorf(nil, format, args...))
	}
	if s.host.Version() < 3 {
		return refuse(driver.ErrUnsupported, "cannot store dirty bitmaps in qcow2 v2 files")
	}
	if err := s.fits(s.host.DiskSize(), shift); err != nil {
		return refuse(driver.ErrRange, "%w", err)
	}
	if err := s.host.ExtensionFits(); err != nil {
		return refuse(driver.ErrRange, "%w", err)
	}
	if len(name) > ondisk.MaxBitmapName {
		return refuse(driver.ErrInvalid, "name length exceeds maximum (%d characters)", ondisk.MaxBitmapName)
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
		return refuse(driver.ErrRange, "maximum number of persistent bitmaps is already reached")
	case size > ondisk.MaxBitmapDirectory:
		return refuse(driver.ErrRange, "not enough space in the bitmap directory")
	}
	return nil
}

// fits says whether a bitmap of a disk of size bytes can be stored.
func (s *Set) fits(size int64, shift uint) error {
	n := ondisk.BitmapTableSize(size, uint8(shift), s.host.ClusterBits())
	switch {
	case n == 0:
		return driver.Errorf(driver.ErrRange, "a disk of size zero cannot have bitmaps")
	case n > ondisk.MaxBitmapTable || n<<s.host.ClusterBits() > ondisk.MaxBitmapBytes:
		return driver.Errorf(driver.ErrRange, "too much space will be occupied by the bitmap. Use larger granularity")
	}
	return nil
}

// PrepareResize makes the bitmaps ready for another size of the disk: all in use,
// and large enough for both. It refuses what cannot be. The function that it returns
// must be called with the size that the disk has in the end.
func (s *Set) PrepareResize(ctx context.Context, size int64) (finish func(size int64) error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	nothing := func(int64) error { return nil }
	if len(s.list)+len(s.gone) == 0 || size == s.host.DiskSize() {
		return nothing, nil
	}
	// On disk those that were removed are still there, as if they were true.
	var gone []*bitmap
	for _, b := range s.gone {
		if b.flags&ondisk.BitmapInUse == 0 {
			gone = append(gone, b)
		}
	}
	if err := s.writeFlags(ctx, gone, func(b *bitmap) uint32 { return b.flags | ondisk.BitmapInUse }); err != nil {
		return nil, err
	}
	for _, b := range s.list {
		if err := s.fits(size, b.shift); err != nil {
			return nil, driver.Errorf(driver.ErrRange, "bitmap '%s' doesn't satisfy the constraints: %w", b.name, err)
		}
	}
	if err := s.useBitmaps(ctx, func(*bitmap) bool { return true }); err != nil {
		return nil, err
	}
	old := s.host.DiskSize()
	if err := s.resize(max(size, old)); err != nil {
		_ = s.resize(old) // what stays too large is not stored
		return nil, err
	}
	return func(size int64) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.resize(size)
	}, nil
}

// CheckConsistent refuses a change of the size while there are bitmaps that are not
// true: nothing would refer to them.
func (s *Set) CheckConsistent() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, b := range s.list {
		if b.inconsistent {
			return b.errInconsistent()
		}
	}
	return nil
}

// resize makes all bitmaps those of a disk of size bytes. bm.mu is held alone.
func (s *Set) resize(size int64) error {
	for _, b := range s.list {
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
	s.publish()
	return nil
}
