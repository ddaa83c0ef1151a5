package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// WriteZeroes makes whole subclusters read as zeroes without writing them.
// Without ZeroMayUnmap, clusters that have room keep it.
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
		return im.zeroVersion2(ctx, off, n)
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
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
			if to-from == im.clusterSize {
				return im.zeroed(old, flags)
			}
			if im.kind(old) == kindCompressed {
				compressed = true
				return old, false
			}
			mask := uint64(im.subMask(from, to))
			return ondisk.L2Entry{Desc: old.Desc, Bitmap: old.Bitmap&^mask | mask<<32}, false
		},
	})
	if err == nil && compressed {
		return driver.Errorf(driver.ErrUnsupported, "a part of a compressed cluster cannot be zeroed without writing")
	}
	return err
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

// zeroVersion2 succeeds only where nothing needs to change: version 2 has no
// zero clusters.
func (im *image) zeroVersion2(ctx context.Context, off, n int64) error {
	for end := off + n; off < end; {
		x, err := im.Map(ctx, off, end-off)
		if err != nil {
			return err
		}
		if x.Kind != driver.ExtentUnallocated || im.hasBacking() {
			return driver.Errorf(driver.ErrUnsupported, "version 2 has no zero clusters")
		}
		off += x.Length
	}
	return nil
}

// zeroRaw zeroes the external data file too, which must read the same by itself.
func (im *image) zeroRaw(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	z, ok := im.data.(driver.ZeroWriter)
	if !ok {
		return driver.ErrUnsupported
	}
	return z.WriteZeroes(ctx, off, n, flags)
}
