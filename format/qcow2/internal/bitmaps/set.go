package bitmaps

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// Set holds the bitmaps of an image. Its methods may be called from several
// goroutines, but for Load, Fail, Release and Store.
type Set struct {
	host Host
	env  *driver.Env
	name string // of the image, in messages

	// mu guards everything but the setting of bits, which shares it. Held alone
	// across I/O, by whatever changes bitmaps themselves.
	mu       sync.RWMutex
	list     []*bitmap
	gone     []*bitmap    // removed, but still in the directory
	dirty    bool         // the directory does not list what list does
	reserved atomic.Int64 // of the budget, for tables
	// recording are the bitmaps that changes of the disk are marked in; nil if
	// there are none.
	recording atomic.Pointer[[]*bitmap]
	// damage is why list is empty although the header names bitmaps.
	damage error
}

// New returns an empty set, of the image that host represents.
func New(host Host, env *driver.Env, name string) *Set { return &Set{host: host, env: env, name: name} }

// Fail forgets all bitmaps, because what the image says of them is damaged.
// Look-ups of any name return err from now on.
func (s *Set) Fail(err error) { s.damage, s.list = err, nil }

func (s *Set) clusterSize() int64 { return 1 << s.host.ClusterBits() }

func (s *Set) clusters(n int64) int64 {
	return n>>s.host.ClusterBits() + min(1, n&(s.clusterSize()-1))
}

// bitmap is a dirty bitmap.
type bitmap struct {
	name    string
	shift   uint // log2 of the granularity
	size    int64
	enabled bool
	extra   []byte
	compat  uint32 // the flag that belongs to extra

	inconsistent bool
	flags        uint32 // in the directory on disk; 0 if it is not there
	stored       bool   // the directory on disk has it
	at           int64  // place of the flags in the directory
	tableOff     int64
	table        []uint64 // as on disk; nil if inconsistent
	tableLen     int64

	bits  atomic.Pointer[bitSet] // nil until it is needed
	fresh bool                   // everything must be stored anew
}

func (b *bitmap) errInconsistent() error {
	return driver.Errorf(driver.ErrBitmaps, "%w", &inconsistentError{b.name})
}

type inconsistentError struct{ name string }

func (e *inconsistentError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *inconsistentError) Template() (string, []any) {
	return "bitmap '%s' is inconsistent and cannot be used", []any{e.name}
}

// Hint tells what to do.
func (e *inconsistentError) Hint() string {
	return "Try block-dirty-bitmap-remove to delete this bitmap from disk"
}

// Mark records that n bytes at off of the disk change. It is called before they do.
func (s *Set) Mark(off, n int64) {
	if list := s.recording.Load(); list != nil {
		s.mark(*list, off, n)
	}
}

func (s *Set) mark(list []*bitmap, off, n int64) {
	for _, b := range list {
		if bits := b.bits.Load(); bits == nil || bits.covers(off, n) {
			continue
		}
		s.mu.RLock()
		if bits := b.bits.Load(); bits != nil { // nil: it was removed meanwhile
			bits.setRange(off, n)
		}
		s.mu.RUnlock()
	}
}

// find returns the bitmap of a name. mu is held.
func (s *Set) find(name string) (*bitmap, error) {
	for _, b := range s.list {
		if b.name == name {
			return b, nil
		}
	}
	if s.damage != nil {
		return nil, s.damage
	}
	return nil, driver.Errorf(driver.ErrNoBitmap, "dirty bitmap '%s' not found", name)
}

// usable is find for a bitmap that is true. mu is held.
func (s *Set) usable(name string) (*bitmap, error) {
	b, err := s.find(name)
	if err == nil && b.inconsistent {
		err = b.errInconsistent()
	}
	return b, err
}

// publish lets changes of the disk be marked in what is enabled. mu is held alone.
func (s *Set) publish() {
	var list []*bitmap
	for _, b := range s.list {
		if b.enabled && !b.inconsistent && b.bits.Load() != nil {
			list = append(list, b)
		}
	}
	if list == nil {
		s.recording.Store(nil)
		return
	}
	s.recording.Store(&list)
}

// Begin flags the enabled bitmaps in use before the disk changes.
func (s *Set) Begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.publish()
	return s.useBitmaps(ctx, func(b *bitmap) bool { return b.enabled })
}

// useBitmaps loads the consistent bitmaps that which chooses, and makes sure that
// they are in use on disk. mu is held alone.
func (s *Set) useBitmaps(ctx context.Context, which func(*bitmap) bool) error {
	var list []*bitmap
	for _, b := range s.list {
		if b.inconsistent || !which(b) {
			continue
		}
		if err := s.loadBits(ctx, b); err != nil {
			return err
		}
		if b.stored && b.flags&ondisk.BitmapInUse == 0 {
			list = append(list, b)
		}
	}
	return s.writeFlags(ctx, list, func(b *bitmap) uint32 { return b.flags | ondisk.BitmapInUse })
}

// writeFlags changes the flags of bitmaps in the directory on disk, durably.
func (s *Set) writeFlags(ctx context.Context, list []*bitmap, flags func(*bitmap) uint32) error {
	if len(list) == 0 {
		return nil
	}
	for _, b := range list {
		if _, err := s.host.File().WriteAt(ctx, binary.BigEndian.AppendUint32(nil, flags(b)), int64(s.host.Extension().DirectoryOffset)+b.at); err != nil {
			return driver.Errorf(driver.ErrInvalid, "can't update bitmap directory: %w", err)
		}
	}
	if err := s.host.File().Flush(ctx); err != nil {
		return driver.Errorf(driver.ErrInvalid, "can't update bitmap directory: %w", err)
	}
	for _, b := range list {
		b.flags = flags(b)
	}
	return nil
}

// List lists the bitmaps.
func (s *Set) List(ctx context.Context) ([]driver.BitmapInfo, error) {
	if s.host.Version() < 3 {
		return nil, driver.Errorf(driver.ErrUnsupported, "version 2 images have no bitmaps")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]driver.BitmapInfo, 0, len(s.list))
	for _, b := range s.list {
		i := driver.BitmapInfo{Name: b.name, Granularity: 1 << b.shift, Size: b.size, Enabled: b.enabled, Inconsistent: b.inconsistent}
		if !b.inconsistent {
			if err := s.loadBits(ctx, b); err != nil {
				return nil, err
			}
			i.Dirty = b.bits.Load().bytes()
		}
		list = append(list, i)
	}
	return list, nil
}

// Extent tells where a bitmap is dirty.
func (s *Set) Extent(ctx context.Context, name string, off, n int64) (int64, bool, error) {
	s.mu.RLock()
	b, err := s.usable(name)
	if err == nil && b.bits.Load() == nil {
		s.mu.RUnlock()
		s.mu.Lock()
		if b, err = s.usable(name); err == nil {
			err = s.loadBits(ctx, b)
		}
		s.mu.Unlock()
		s.mu.RLock()
		if err == nil {
			b, err = s.usable(name)
		}
	}
	defer s.mu.RUnlock()
	if err != nil {
		return 0, false, err
	}
	bits := b.bits.Load()
	if bits == nil || off < 0 || n <= 0 || off >= bits.size {
		return 0, false, driver.Errorf(driver.ErrRange, "%d bytes at %d of bitmap '%s': beyond the end of the disk", n, off, name)
	}
	n = min(n, bits.size-off)
	lo, hi := bits.span(off, n)
	set, count := bits.run(lo, hi)
	return min(n, (lo+count)<<b.shift-off), set, nil
}

// changeBitmap runs f on a bitmap that may be changed: loaded and in use on disk.
func (s *Set) changeBitmap(ctx context.Context, name string, f func(*bitmap) error) error {
	s.mu.RLock()
	_, err := s.usable(name)
	s.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := s.host.BeginWrite(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.usable(name)
	if err != nil {
		return err
	}
	if err := s.useBitmaps(ctx, func(x *bitmap) bool { return x == b }); err != nil {
		return err
	}
	defer s.publish()
	return f(b)
}

// Any says whether there is a bitmap.
func (s *Set) Any() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.list) > 0
}

// Clear unsets all bits.
func (s *Set) Clear(ctx context.Context, name string) error {
	return s.changeBitmap(ctx, name, func(b *bitmap) error {
		old := b.bits.Load()
		if old.bytes() == 0 {
			return nil
		}
		bits, err := newBitSet(old.size, b.shift, s.env.Budget)
		if err != nil {
			return err
		}
		b.bits.Store(bits)
		b.fresh = true
		old.release()
		return nil
	})
}

// Enable starts or stops recording.
func (s *Set) Enable(ctx context.Context, name string, on bool) error {
	return s.changeBitmap(ctx, name, func(b *bitmap) error {
		b.enabled = on
		return nil
	})
}

// SetRange marks a range dirty.
func (s *Set) SetRange(ctx context.Context, name string, off, n int64) error {
	if off < 0 || n < 0 || off > s.host.DiskSize()-n {
		return driver.Errorf(driver.ErrRange, "%d bytes at %d of bitmap '%s': beyond the end of the disk", n, off, name)
	}
	return s.changeBitmap(ctx, name, func(b *bitmap) error {
		b.bits.Load().setRange(off, n)
		return nil
	})
}

// Remove removes a bitmap.
func (s *Set) Remove(ctx context.Context, name string) error {
	s.mu.RLock()
	_, err := s.find(name)
	s.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := s.host.BeginWrite(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.find(name)
	if err != nil {
		return err
	}
	s.list = slices.DeleteFunc(slices.Clone(s.list), func(x *bitmap) bool { return x == b })
	s.publish()
	if bits := b.bits.Swap(nil); bits != nil {
		// Nobody marks it any more: mark holds mu while it does.
		bits.release()
	}
	if b.stored {
		s.gone = append(s.gone, b)
		s.dirty = true
	}
	return nil
}
