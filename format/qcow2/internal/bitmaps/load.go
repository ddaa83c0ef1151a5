package bitmaps

import (
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/qapi"
)

// maxBitmapRead is how much of a bitmap's data is read at once.
const maxBitmapRead = 1 << 20

// Load reads the bitmap directory and the tables of the bitmaps that are true. Their
// bits are read when they are needed. It is called once, before all else.
func (s *Set) Load(ctx context.Context) error {
	dir, err := s.readBitmapDirectory(ctx)
	if err != nil {
		return err
	}
	at := int64(0)
	names := make(map[string]bool, len(dir))
	for i := range dir {
		e := &dir[i]
		b := &bitmap{name: e.Name, shift: uint(e.GranularityBits), size: s.host.DiskSize(), extra: slices.Clone(e.Extra),
			enabled: e.Flags&ondisk.BitmapAuto != 0, inconsistent: e.Flags&ondisk.BitmapInUse != 0,
			compat: e.Flags & ondisk.BitmapExtraCompatible, flags: e.Flags, stored: true,
			at: at + ondisk.BitmapFlagsOffset, tableOff: int64(e.TableOffset), tableLen: int64(e.TableSize)}
		at += int64(e.Size())
		if names[b.name] {
			return driver.Errorf(driver.ErrCorrupt, "bitmap already exists: %s", b.name)
		}
		names[b.name] = true
		if !b.inconsistent {
			if err := s.loadBitmapTable(ctx, b); err != nil {
				return err
			}
		}
		s.list = append(s.list, b)
	}
	return nil
}

// readBitmapDirectory reads and judges the bitmap directory.
func (s *Set) readBitmapDirectory(ctx context.Context) ([]ondisk.Bitmap, error) {
	corrupt := func(format string, args ...any) error { return driver.Errorf(driver.ErrCorrupt, format, args...) }
	off, size := int64(s.host.Extension().DirectoryOffset), int64(s.host.Extension().DirectorySize)
	switch {
	case size == 0:
		return nil, corrupt("requested bitmap directory size is zero")
	case off < s.clusterSize() || size > tableio.AlignUp(s.host.File().Size(), s.clusterSize())-off:
		return nil, corrupt("failed to read bitmap directory: %d bytes at %d are not within the file", size, off)
	}
	if err := s.env.Budget.Table("bitmap directory", size); err != nil {
		return nil, err
	}
	defer s.env.Budget.Release(size)
	buf := make([]byte, size)
	if err := tableio.ReadPadded(ctx, s.host.File(), buf, off); err != nil {
		return nil, corrupt("failed to read bitmap directory: %w", err)
	}
	dir, err := ondisk.DecodeBitmapDirectory(buf, int(s.host.Extension().Count))
	if err != nil {
		return nil, corrupt("%w", err)
	}
	for i := range dir {
		b := &dir[i]
		if len(b.Extra) > 0 && b.Flags&ondisk.BitmapExtraCompatible == 0 {
			return nil, corrupt("bitmap extra data is not supported")
		}
		short := int64(b.TableSize) < ondisk.BitmapTableSize(s.host.DiskSize(), b.GranularityBits, s.host.ClusterBits())
		if !b.Valid(s.host.ClusterBits()) || short && b.Flags&ondisk.BitmapInUse == 0 || slices.Contains([]byte(b.Name), 0) {
			return nil, corrupt("bitmap '%s' doesn't satisfy the constraints", b.Name)
		}
	}
	return dir, nil
}

// loadBitmapTable reads the table of a bitmap.
func (s *Set) loadBitmapTable(ctx context.Context, b *bitmap) error {
	if !b.inconsistent && b.tableLen != ondisk.BitmapTableSize(b.size, uint8(b.shift), s.host.ClusterBits()) {
		return driver.Errorf(driver.ErrCorrupt, "could not read bitmap '%s' from image: invalid argument", b.name)
	}
	if b.tableLen*8 > tableio.AlignUp(s.host.File().Size(), s.clusterSize()) {
		return driver.Errorf(driver.ErrCorrupt, "could not read bitmap_table table from image for bitmap '%s': it is larger than the file", b.name)
	}
	if err := s.env.Budget.Table("bitmap table", b.tableLen*8); err != nil {
		return err
	}
	s.reserved.Add(b.tableLen * 8)
	table, err := s.host.ReadTable(ctx, b.tableOff, b.tableLen)
	if err != nil {
		return driver.Errorf(driver.ErrCorrupt, "could not read bitmap_table table from image for bitmap '%s': %w", b.name, err)
	}
	for _, e := range table {
		if !ondisk.ValidBitmapTableEntry(e, s.host.ClusterBits()) {
			return driver.Errorf(driver.ErrCorrupt, "could not read bitmap_table table from image for bitmap '%s': invalid argument", b.name)
		}
	}
	b.table = table
	return nil
}

// loadBits reads the bits of a bitmap that is true. mu is held alone.
func (s *Set) loadBits(ctx context.Context, b *bitmap) error {
	if b.bits.Load() != nil {
		return nil
	}
	bits, err := newBitSet(b.size, b.shift, s.env.Budget)
	if err != nil {
		return err
	}
	if err := s.readBits(ctx, bits, b.table); err != nil {
		bits.release()
		return driver.Errorf(driver.ErrCorrupt, "could not read bitmap '%s' from image: %w", b.name, err)
	}
	bits.untouch()
	b.bits.Store(bits)
	return nil
}

func (s *Set) readBits(ctx context.Context, bits *bitSet, table []uint64) error {
	per := s.clusterSize() * 8 // bits of a cluster
	var buf []byte
	for i := 0; i < len(table); {
		switch e := table[i]; e {
		case 0:
			i++
		case ondisk.BitmapTableAllOnes:
			bits.setBits(int64(i)*per, min(bits.n, int64(i+1)*per))
			i++
		default:
			j := i + 1
			for j < len(table) && table[j] == e+uint64(j-i)<<s.host.ClusterBits() && int64(j-i) < maxBitmapRead>>s.host.ClusterBits() {
				j++
			}
			if buf == nil {
				buf = make([]byte, max(maxBitmapRead, s.clusterSize()))
			}
			p := buf[:int64(j-i)<<s.host.ClusterBits()]
			if err := tableio.ReadPadded(ctx, s.host.File(), p, int64(e)); err != nil {
				return err
			}
			if err := bits.load(p, int64(i)*per); err != nil {
				return err
			}
			i = j
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// Release gives back what the bitmaps took of the budget.
func (s *Set) Release() {
	for _, b := range s.list {
		if bits := b.bits.Load(); bits != nil {
			bits.release()
		}
	}
	s.env.Budget.Release(s.reserved.Swap(0))
}

// Info lists the bitmaps as the directory has them.
func (s *Set) Info() []qapi.Qcow2BitmapInfo {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []qapi.Qcow2BitmapInfo
	for _, b := range s.list {
		if !b.stored {
			continue
		}
		i := qapi.Qcow2BitmapInfo{Name: b.name, Granularity: 1 << b.shift, Flags: []string{}}
		if b.flags&ondisk.BitmapInUse != 0 {
			i.Flags = append(i.Flags, "in-use")
		}
		if b.flags&ondisk.BitmapAuto != 0 {
			i.Flags = append(i.Flags, "auto")
		}
		list = append(list, i)
	}
	return list
}
