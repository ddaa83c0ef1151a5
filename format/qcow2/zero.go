package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// WriteZeroes makes whole subclusters read as zeroes without writing them.
// Without ZeroMayUnmap, clusters that have room keep it, except in version 2.
func (im *image) WriteZeroes(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	c0, c1, err := im.clusterRange(off, n)
	if err != nil || n == 0 {
		return err
	}
	end := off + n
	if end == im.size.Load() {
		end = im.alignUp(end)
	}
	if (off|end)&(im.subSize-1) != 0 {
		return driver.Errorf(driver.ErrUnsupported, "%d zeroes at %d are not aligned", n, off)
	}
	if im.version < 3 {
		return im.zeroVersion2(ctx, c0, c1)
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	im.bm.Mark(off, n)
	if im.dataRaw {
		if err := im.zeroRaw(ctx, off, n, flags); err != nil {
			return err
		}
	}
	compressed := false
	err = im.change(ctx, c0, c1, changeOptions{
		makeTables: true,
		how:        discardRequest,
		edit: func(c int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
			start := c << im.clusterBits
			from, to := max(off, start)-start, min(end-start, im.clusterSize)
			if to-from < im.clusterSize && im.kind(old) == kindCompressed {
				compressed = true
				return old, false
			}
			return im.zeroedPart(old, from, to, flags)
		},
	})
	if err == nil && compressed {
		return driver.Errorf(driver.ErrUnsupported, "part of a compressed cluster cannot be zeroed without writing data")
	}
	return err
}

// errWritten is why ZeroUnwritten leaves a unit as it is.
var errWritten = driver.Errorf(driver.ErrUnsupported, "the cluster holds data")

// ZeroUnwritten implements driver.UnwrittenZeroer. Whether a cluster holds data is asked
// when its entry is changed, so that no write gets between.
func (im *image) ZeroUnwritten(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	c0, c1, err := im.clusterRange(off, n)
	if err != nil {
		return err
	}
	if im.version < 3 || im.dataRaw {
		return driver.ErrUnsupported
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	im.bm.Mark(off, n)
	written := false
	off, end := off&^(im.subSize-1), (off+n+im.subSize-1)&^(im.subSize-1)
	err = im.change(ctx, c0, c1, changeOptions{
		makeTables: true,
		how:        discardRequest,
		edit: func(c int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
			start := c << im.clusterBits
			from, to := max(off, start)-start, min(end-start, im.clusterSize)
			if im.holdsData(old, from, to) {
				written = true
				return old, false
			}
			return im.zeroedPart(old, from, to, flags)
		},
	})
	if err == nil && written {
		return errWritten
	}
	return err
}

// holdsData says whether any of the bytes [from, to) of a cluster was written.
func (im *image) holdsData(e ondisk.L2Entry, from, to int64) bool {
	k := im.kind(e)
	if k == kindNormal && im.extended {
		return uint32(e.Bitmap)&im.subMask(from, to) != 0
	}
	return k == kindNormal || k == kindCompressed
}

// zeroedPart returns what becomes of an L2 entry when the whole subclusters [from, to) of
// its cluster are zeroed.
func (im *image) zeroedPart(old ondisk.L2Entry, from, to int64, flags driver.ZeroFlags) (e ondisk.L2Entry, free bool) {
	if to-from == im.clusterSize {
		return im.zeroed(old, flags)
	}
	mask := uint64(im.subMask(from, to))
	return ondisk.L2Entry{Desc: old.Desc, Bitmap: old.Bitmap&^mask | mask<<32}, false
}

// zeroed returns what becomes of the L2 entry of a whole cluster that is zeroed.
func (im *image) zeroed(old ondisk.L2Entry, flags driver.ZeroFlags) (e ondisk.L2Entry, free bool) {
	k := im.kind(old)
	allocated := k == kindNormal || k == kindZeroAlloc
	unmap := k == kindCompressed || flags&driver.ZeroMayUnmap != 0 && allocated
	free = unmap && (k == kindCompressed || !im.opt.DiscardNoUnref)
	if !free {
		e.Desc = old.Desc
	}
	if im.extended {
		e.Bitmap = allZero
	} else {
		e.Desc |= ondisk.FlagZero
	}
	return e, free
}

// zeroVersion2 gives clusters back: version 2 has no zero clusters, but what is
// not allocated reads as zeroes if there is no backing file. Room is not kept,
// whatever the flags: writing zeroes to it would be the only other way.
func (im *image) zeroVersion2(ctx context.Context, c0, c1 int64) error {
	if im.hasBacking() {
		return driver.Errorf(driver.ErrUnsupported, "version 2 has no zero clusters")
	}
	return im.change(ctx, c0, c1, changeOptions{
		how: discardRequest,
		edit: func(_ int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
			return ondisk.L2Entry{}, im.kind(old) != kindUnallocated
		},
	})
}

// zeroRaw zeroes the external data file too, which must read the same by itself.
func (im *image) zeroRaw(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	z, ok := im.data.(driver.ZeroWriter)
	if !ok {
		return driver.ErrUnsupported
	}
	return z.WriteZeroes(ctx, off, n, flags)
}
