package block

import (
	"context"
	"errors"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/trace"
)

// zeroChunk is how much is written at once where zeroes must be written as data.
const zeroChunk = 1 << 20

// WriteZeroes makes a range read as zeroes, in the cheapest way.
func (img *Image) WriteZeroes(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	trace.BdrvCoPwriteZeroes.Log(off, n, int64(flags))
	if err := img.checkWritable("write zeroes", off); err != nil {
		return err
	}
	img.changing.RLock()
	defer img.changing.RUnlock()
	return img.zeroDisk(ctx, off, n, flags)
}

// zeroDisk is WriteZeroes. changing is held.
func (img *Image) zeroDisk(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	if img.storage == nil || n < 0 || off < 0 {
		if err := img.bounds("write zeroes", off, n); err != nil {
			return err
		}
	}
	if !img.unmap {
		flags &^= driver.ZeroMayUnmap
	}
	if img.probedRaw && off < probeGuard && n > 0 {
		img.start.Lock()
		defer img.start.Unlock()
		if err := img.guardZero(ctx, off, n); err != nil {
			return err
		}
	}
	err := img.zeroRange(ctx, off, n, flags)
	if err == nil && img.cache.WriteThrough {
		err = img.Flush(ctx)
	}
	return err
}

func (img *Image) zeroRange(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	if n == 0 {
		return nil
	}
	if img.zeroer == nil {
		if flags&driver.ZeroNoFallback != 0 {
			return img.fail("write zeroes", off, driver.ErrUnsupported)
		}
		return img.zeroData(ctx, off, n)
	}
	start, end := alignIn(off, n, max(img.limits.ZeroAlignment, img.unit()), img.Size())
	if start >= end {
		return img.zeroEdge(ctx, off, n, flags)
	}
	if err := img.zeroEdge(ctx, off, start-off, flags); err != nil {
		return err
	}
	for pos := start; pos < end; {
		n := piece(end-pos, img.limits.MaxZero, max(img.limits.ZeroAlignment, img.unit()))
		img.lock()
		err := img.zeroer.WriteZeroes(ctx, pos, n, flags)
		img.unlock()
		if errors.Is(err, driver.ErrUnsupported) && flags&driver.ZeroNoFallback == 0 {
			err = img.zeroData(ctx, pos, n)
		}
		if err != nil {
			return img.fail("write zeroes", pos, err)
		}
		pos += n
	}
	return img.zeroEdge(ctx, end, off+n-end, flags)
}

// zeroEdge zeroes a range of which no unit of the driver is covered.
func (img *Image) zeroEdge(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	unit := max(img.limits.ZeroAlignment, img.unit())
	for n > 0 {
		m := min(n, unit-off%unit)
		done, err := img.zeroUnwritten(ctx, off, m, unit, flags)
		if err != nil {
			return err
		}
		if !done {
			if err := img.zeroPart(ctx, off, m, flags); err != nil {
				return err
			}
		}
		off, n = off+m, n-m
	}
	return nil
}

// zeroUnwritten makes the unit that a range is part of read as zeroes, if all else in it
// does and nothing was written to it.
func (img *Image) zeroUnwritten(ctx context.Context, off, n, unit int64, flags driver.ZeroFlags) (bool, error) {
	z, ok := img.zeroer.(driver.UnwrittenZeroer)
	if !ok {
		return false, nil
	}
	start := off / unit * unit
	end := min(start+unit, img.Size())
	for _, rest := range [][2]int64{{start, off}, {off + n, end}} {
		if zero, err := img.ReadsZero(ctx, rest[0], rest[1]-rest[0]); !zero || err != nil {
			return false, err
		}
	}
	img.lock()
	err := z.ZeroUnwritten(ctx, off, n, flags)
	img.unlock()
	if errors.Is(err, driver.ErrUnsupported) {
		return false, nil
	}
	return err == nil, img.fail("write zeroes", off, err)
}

// zeroPart zeroes a part of a unit as data. What reads as zeroes already is left alone if
// there is no backing file; if there is one, the layer gets the zeroes itself, as it
// gets other data: another backing file may take the place of this one.
func (img *Image) zeroPart(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	if img.backing == nil {
		if zero, err := img.ReadsZero(ctx, off, n); zero || err != nil {
			return err
		}
	}
	if flags&driver.ZeroNoFallback != 0 {
		return img.fail("write zeroes", off, driver.ErrUnsupported)
	}
	return img.zeroData(ctx, off, n)
}

func (img *Image) zeroData(ctx context.Context, off, n int64) error {
	buf := bufpool.Get(int(min(n, zeroChunk)))
	defer bufpool.Put(buf)
	clear(buf)
	e := img.guard.Enter()
	defer img.guard.Exit(e)
	for n > 0 {
		b := buf[:min(n, int64(len(buf)))]
		var err error
		if img.storage != nil {
			_, err = img.writeStorage(ctx, b, off)
		} else {
			_, err = img.writeFormat(ctx, b, off, nil)
		}
		if err != nil {
			return img.fail("write zeroes", off, err)
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// Discard tells that the contents of a range are no longer needed. It is a hint:
// a driver that cannot discard, an image opened without discard, and the parts of a range
// that do not fill a unit of the format, leave things as they are.
func (img *Image) Discard(ctx context.Context, off, n int64) error {
	trace.BdrvCoPdiscard.Log(off, n)
	if err := img.checkWritable("discard", off); err != nil {
		return err
	}
	img.changing.RLock()
	defer img.changing.RUnlock()
	if err := img.bounds("discard", off, n); err != nil {
		return err
	}
	if img.discarder == nil || !img.unmap {
		return nil
	}
	start, end := alignIn(off, n, img.discardUnit(), img.Size())
	if start >= end {
		return nil
	}
	if img.probedRaw && start < probeGuard {
		img.start.Lock()
		defer img.start.Unlock()
		if err := img.guardZero(ctx, start, end-start); err != nil {
			return err
		}
	}
	for pos := start; pos < end; {
		n := img.discardPiece(pos, end)
		img.lock()
		err := img.discarder.Discard(ctx, pos, n)
		img.unlock()
		if errors.Is(err, driver.ErrUnsupported) {
			return nil
		}
		if err != nil {
			return img.fail("discard", pos, err)
		}
		pos += n
	}
	if img.cache.WriteThrough {
		return img.Flush(ctx)
	}
	return nil
}

// discardUnit is the unit that a discard must fill for the node to see it. One that passes
// through sees parts of its DiscardAlignment too, each by itself: its child knows what they
// are worth.
func (img *Image) discardUnit() int64 {
	if img.desc.PassesThrough() != "" {
		return img.unit()
	}
	return max(img.limits.DiscardAlignment, img.unit())
}

// discardPiece is how much of a discard from pos to end goes into one request: up to the
// next boundary of DiscardAlignment, or whole units of it. The end of the disk counts as
// aligned.
func (img *Image) discardPiece(pos, end int64) int64 {
	align := max(img.limits.DiscardAlignment, img.unit())
	n := end - pos
	if over := pos % align; over != 0 {
		n = min(n, align-over)
	} else if n > align && end != img.Size() {
		n = n / align * align
	}
	return min(n, piece(n, img.limits.MaxDiscard, align))
}

// piece is how much of n bytes may go into one request: most, rounded down to units.
func piece(n, most, unit int64) int64 {
	if most <= 0 || n <= most {
		return n
	}
	return max(most/unit*unit, unit)
}

// alignIn shrinks a range to multiples of align; the end of the disk counts as
// aligned.
func alignIn(off, n, align, size int64) (start, end int64) {
	start, end = off, off+n
	if align > 1 {
		start = (start + align - 1) / align * align
		if end != size {
			end = end / align * align
		}
	}
	return start, end
}

// Resize changes the size of the disk. New bytes read as zeroes, also where a
// backing file is larger than the disk was.
func (img *Image) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if err := img.checkWritable("resize", -1); err != nil {
		return err
	}
	if img.access.Perm&driver.PermResize == 0 {
		return img.fail("resize", -1, driver.Errorf(driver.ErrInvalid, "the image was not opened for resizing"))
	}
	if img.storage == nil {
		// Formats may have to move data.
		img.changing.Lock()
		defer img.changing.Unlock()
	}
	r, ok := img.node.(driver.Resizer)
	if !ok {
		return img.fail("resize", -1, driver.Errorf(driver.ErrUnsupported, "image format driver does not support resize"))
	}
	old := img.Size()
	if img.backing != nil && size > old && img.backing.Size() > old {
		opt.HideBacking = min(size, img.backing.Size())
		if err := img.ownLastCluster(ctx, old); err != nil {
			return err
		}
	}
	img.lock()
	err := r.Resize(ctx, size, opt)
	img.unlock()
	if err != nil {
		return img.fail("resize", -1, err)
	}
	for off := old; off < opt.HideBacking; {
		st, err := img.Status(ctx, off, opt.HideBacking-off, nil)
		if err != nil {
			return err
		}
		if !st.Zero {
			if err := img.zeroRange(ctx, off, st.Length, 0); err != nil {
				return err
			}
		}
		off += st.Length
	}
	return nil
}

// ownLastCluster makes sure that a last cluster which reaches beyond the end of
// the disk is not in the backing file, which may go on there: writing its
// last byte once more copies it, with zeroes behind the end. changing is held.
func (img *Image) ownLastCluster(ctx context.Context, size int64) error {
	unit := max(img.limits.ClusterSize, img.limits.ZeroAlignment)
	if unit <= 1 || size%unit == 0 {
		return nil
	}
	st, err := img.StatusLayer(ctx, size-1, 1)
	if err != nil || st.Allocated || img.allocator == nil {
		return err
	}
	var last [1]byte
	if _, err := img.ReadAt(ctx, last[:], size-1); err != nil && err != io.EOF {
		return err
	}
	_, err = img.writeDisk(ctx, last[:], size-1)
	return err
}

// CopyFrom makes Image a driver.RangeCopier for parents and for callers that
// copy between storage: it passes the request to the driver.
func (img *Image) CopyFrom(ctx context.Context, src driver.Storage, srcOff, dstOff, n int64, mode driver.CopyMode) (int64, error) {
	c, ok := img.node.(driver.RangeCopier)
	if !ok || img.storage == nil {
		return 0, driver.ErrUnsupported
	}
	if err := img.checkWritable("copy", dstOff); err != nil {
		return 0, err
	}
	return c.CopyFrom(ctx, driver.Unwrap(src), srcOff, dstOff, n, mode)
}
