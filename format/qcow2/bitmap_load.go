package qcow2

import (
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/qapi"
)

// maxBitmapRead is how much of a bitmap's data is read at once.
const maxBitmapRead = 1 << 20

// loadBitmaps reads the bitmap directory and the tables of the bitmaps that are
// true. Their bits are read when they are needed.
func (im *image) loadBitmaps(ctx context.Context) error {
	if im.bm.stale {
		im.env.Warn(im.staleBitmaps())
	}
	if im.bitmapsExt.Count == 0 || im.access.Check {
		return nil
	}
	dir, err := im.readBitmapDirectory(ctx)
	if err != nil {
		return err
	}
	at := int64(0)
	names := make(map[string]bool, len(dir))
	for i := range dir {
		e := &dir[i]
		b := &bitmap{name: e.Name, shift: uint(e.GranularityBits), size: im.size.Load(), extra: slices.Clone(e.Extra),
			enabled: e.Flags&ondisk.BitmapAuto != 0, inconsistent: e.Flags&ondisk.BitmapInUse != 0,
			compat: e.Flags & ondisk.BitmapExtraCompatible, flags: e.Flags, stored: true,
			at: at + ondisk.BitmapFlagsOffset, tableOff: int64(e.TableOffset), tableLen: int64(e.TableSize)}
		at += int64(e.Size())
		if names[b.name] {
			return driver.Errorf(driver.ErrCorrupt, "Bitmap already exists: %s", b.name)
		}
		names[b.name] = true
		if !b.inconsistent {
			if err := im.loadBitmapTable(ctx, b); err != nil {
				return err
			}
		}
		im.bm.list = append(im.bm.list, b)
	}
	return nil
}

// staleBitmaps words the warning about bitmaps that have become untrue.
func (im *image) staleBitmaps() string {
	text := "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent"
	if im.version < 3 {
		text = "This qcow2 v2 image contains bitmaps, but they may have been modified by a program without persistent bitmap support; so now they must all be considered inconsistent"
	}
	return text + "\nSome clusters may be leaked, run 'qemu-img check -r' on the image file to fix."
}

// readBitmapDirectory reads and judges the bitmap directory.
func (im *image) readBitmapDirectory(ctx context.Context) ([]ondisk.Bitmap, error) {
	corrupt := func(format string, args ...any) error { return driver.Errorf(driver.ErrCorrupt, format, args...) }
	off, size := int64(im.bitmapsExt.DirectoryOffset), int64(im.bitmapsExt.DirectorySize)
	switch {
	case size == 0:
		return nil, corrupt("Requested bitmap directory size is zero")
	case off < im.clusterSize || size > im.alignUp(im.file.Size())-off:
		return nil, corrupt("Failed to read bitmap directory: %d bytes at %d are not within the file", size, off)
	}
	if err := im.env.Budget.Table("bitmap directory", size); err != nil {
		return nil, err
	}
	defer im.env.Budget.Release(size)
	buf := make([]byte, size)
	if err := im.readPadded(ctx, im.file, buf, off); err != nil {
		return nil, corrupt("Failed to read bitmap directory: %w", err)
	}
	dir, err := ondisk.DecodeBitmapDirectory(buf, int(im.bitmapsExt.Count))
	if err != nil {
		return nil, corrupt("%w", err)
	}
	for i := range dir {
		b := &dir[i]
		if len(b.Extra) > 0 && b.Flags&ondisk.BitmapExtraCompatible == 0 {
			return nil, corrupt("Bitmap extra data is not supported")
		}
		short := int64(b.TableSize) < ondisk.BitmapTableSize(im.size.Load(), b.GranularityBits, im.clusterBits)
		if !b.Valid(im.clusterBits) || short && b.Flags&ondisk.BitmapInUse == 0 || slices.Contains([]byte(b.Name), 0) {
			return nil, corrupt("Bitmap '%s' doesn't satisfy the constraints", b.Name)
		}
	}
	return dir, nil
}

// loadBitmapTable reads the table of a bitmap.
func (im *image) loadBitmapTable(ctx context.Context, b *bitmap) error {
	if !b.inconsistent && b.tableLen != ondisk.BitmapTableSize(b.size, uint8(b.shift), im.clusterBits) {
		return driver.Errorf(driver.ErrCorrupt, "Could not read bitmap '%s' from image: Invalid argument", b.name)
	}
	if b.tableLen*8 > im.alignUp(im.file.Size()) {
		return driver.Errorf(driver.ErrCorrupt, "Could not read bitmap_table table from image for bitmap '%s': it is larger than the file", b.name)
	}
	if err := im.env.Budget.Table("bitmap table", b.tableLen*8); err != nil {
		return err
	}
	im.bm.reserved.Add(b.tableLen * 8)
	table, err := im.readTable(ctx, b.tableOff, b.tableLen)
	if err != nil {
		return driver.Errorf(driver.ErrCorrupt, "Could not read bitmap_table table from image for bitmap '%s': %w", b.name, err)
	}
	for _, e := range table {
		if !ondisk.ValidBitmapTableEntry(e, im.clusterBits) {
			return driver.Errorf(driver.ErrCorrupt, "Could not read bitmap_table table from image for bitmap '%s': Invalid argument", b.name)
		}
	}
	b.table = table
	return nil
}

// loadBits reads the bits of a bitmap that is true. bm.mu is held alone.
func (im *image) loadBits(ctx context.Context, b *bitmap) error {
	if b.bits.Load() != nil {
		return nil
	}
	bits, err := newBitSet(b.size, b.shift, im.env.Budget)
	if err != nil {
		return err
	}
	if err := im.readBits(ctx, bits, b.table); err != nil {
		bits.release()
		return driver.Errorf(driver.ErrCorrupt, "Could not read bitmap '%s' from image: %w", b.name, err)
	}
	bits.untouch()
	b.bits.Store(bits)
	return nil
}

func (im *image) readBits(ctx context.Context, bits *bitSet, table []uint64) error {
	per := im.clusterSize * 8 // bits of a cluster
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
			for j < len(table) && table[j] == e+uint64(j-i)<<im.clusterBits && int64(j-i) < maxBitmapRead>>im.clusterBits {
				j++
			}
			if buf == nil {
				buf = make([]byte, max(maxBitmapRead, im.clusterSize))
			}
			p := buf[:int64(j-i)<<im.clusterBits]
			if err := im.readPadded(ctx, im.file, p, int64(e)); err != nil {
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

// releaseBitmaps gives back what the bitmaps took of the budget.
func (im *image) releaseBitmaps() {
	for _, b := range im.bm.list {
		if bits := b.bits.Load(); bits != nil {
			bits.release()
		}
	}
	im.env.Budget.Release(im.bm.reserved.Swap(0))
}

// bitmapsInfo lists the bitmaps as the directory has them.
func (im *image) bitmapsInfo() []qapi.Qcow2BitmapInfo {
	im.bm.mu.RLock()
	defer im.bm.mu.RUnlock()
	var list []qapi.Qcow2BitmapInfo
	for _, b := range im.bm.list {
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
