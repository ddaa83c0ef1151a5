package block

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// Map makes Image a driver.Storage: it tells for a parent node whether the
// bytes at off are data or zeroes, through the whole chain.
func (img *Image) Map(ctx context.Context, off, n int64) (driver.Extent, error) {
	if err := img.open("map", off); err != nil {
		return driver.Extent{}, err
	}
	if img.storage != nil {
		img.lock()
		defer img.unlock()
		ext, err := img.storage.Map(ctx, off, n)
		return ext, img.fail("map", off, err)
	}
	st, err := img.Status(ctx, off, n, nil)
	if err != nil {
		return driver.Extent{}, err
	}
	if st.Length == 0 {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	ext := driver.Extent{Length: st.Length, Kind: driver.ExtentData, HostOffset: off, HasOffset: true}
	if st.Zero {
		ext.Kind = driver.ExtentZero
	}
	return ext, nil
}

// Status says what a range of the disk is.
type Status struct {
	Length int64 // 0 at the end of the disk
	Depth  int   // layers of the backing chain above the one that answers
	Layer  *Image
	// Data: some layer holds bytes for the range. Zero: it reads as zeroes.
	// Both can be true (preallocated room that is a hole), and none is if the
	// search ended (see Status) before a layer had an answer.
	Data, Zero bool
	// Hole: Data has no disk space, although it is not known to be zeroes.
	Hole bool
	// Allocated: the layer that answers holds the range itself; false where the
	// range reads as zeroes only because no layer has it.
	Allocated  bool
	Compressed bool
	// HasOffset: the bytes are in File at Offset.
	HasOffset bool
	Offset    int64
	File      *Image
}

// Status describes at most n bytes at off, looking down the backing chain as
// far as the layer base, which is not included (nil: to the end). The answer
// covers at least one byte unless off is the end of the disk.
func (img *Image) Status(ctx context.Context, off, n int64, base *Image) (Status, error) {
	if base != nil {
		base = base.skipFilters()
	}
	for layer, depth := img, 0; ; depth++ {
		st, err := layer.StatusLayer(ctx, off, n)
		st.Depth = depth
		if err != nil || st.Length == 0 || st.Data || st.Zero {
			return st, err
		}
		n = st.Length
		next := layer.Backing()
		if next == nil || next.skipFilters() == base {
			return st, nil
		}
		layer = next
	}
}

// StatusLayer describes at most n bytes at off as this layer alone has them:
// neither Data nor Zero where it leaves them to the backing file. For a filter that
// is what its child says.
func (img *Image) StatusLayer(ctx context.Context, off, n int64) (Status, error) {
	if at := img.skipFilters(); at != img {
		for f := img; f != at; f = f.filtered {
			if c, ok := f.node.(driver.StatusChecker); ok {
				if err := c.CheckStatus(off, n); err != nil {
					return Status{}, img.fail("map", off, err)
				}
			}
		}
		st, err := at.StatusLayer(ctx, off, n)
		st.Layer = img
		return st, err
	}
	e := img.guard.Enter()
	defer img.guard.Exit(e)
	st, err := img.exactStatus(ctx, off, n)
	if unit := img.statusUnit(); err == nil && unit > 1 && st.Length < n {
		return img.wholeUnits(ctx, st, off, unit)
	}
	return st, err
}

// exactStatus is StatusLayer inside the guard, to the byte.
func (img *Image) exactStatus(ctx context.Context, off, n int64) (Status, error) {
	st, recurse, err := img.ownStatus(ctx, off, n)
	if err == nil && recurse {
		return img.recurse(ctx, st)
	}
	return st, err
}

// statusUnit is the unit in which a format tells what a range is: that of requests,
// and whole sectors where the file is read past the cache of the system.
func (img *Image) statusUnit() int64 {
	if img.format == nil {
		return 1
	}
	if p := img.Tree().Protocol(); p != nil && p.CacheMode().Direct {
		return max(img.unit(), sectorSize)
	}
	return img.unit()
}

// wholeUnits makes st, the status at off, end at the end of a unit of requests. A unit
// of several kinds counts as data.
func (img *Image) wholeUnits(ctx context.Context, st Status, off, unit int64) (Status, error) {
	size := img.Size()
	end := off + st.Length
	if end%unit == 0 || end >= size || st.Length == 0 {
		return st, nil
	}
	if whole := end / unit * unit; whole > off {
		st.Length = whole - off
		return st, nil
	}
	last := min((end/unit+1)*unit, size)
	for pos := end; pos < last; {
		next, err := img.exactStatus(ctx, pos, last-pos)
		if err != nil || next.Length == 0 {
			return st, err
		}
		if next.Zero != st.Zero || next.Data != st.Data || next.Hole != st.Hole {
			st.Data, st.Zero, st.Hole, st.Allocated = true, false, false, true
		}
		pos += next.Length
	}
	st.Length = last - off
	return st, nil
}

// AllocatedLayer tells whether this layer alone answers for the bytes at off, and
// for how many of at most n bytes that is so; 0 at the end of the disk. Unlike
// StatusLayer it does not ask where the file below has holes.
func (img *Image) AllocatedLayer(ctx context.Context, off, n int64) (bool, int64, error) {
	img = img.skipFilters()
	e := img.guard.Enter()
	defer img.guard.Exit(e)
	st, recurse, err := img.ownStatus(ctx, off, n)
	if err == nil && recurse && img.desc.PassesThrough() != "" {
		st, err = img.recurse(ctx, st)
	}
	return st.Allocated, st.Length, err
}

// ownStatus is StatusLayer short of the holes of the child that holds the data;
// recurse says that those count. It is called inside the guard.
func (img *Image) ownStatus(ctx context.Context, off, n int64) (_ Status, recurse bool, _ error) {
	if err := img.open("map", off); err != nil {
		return Status{}, false, err
	}
	size := img.Size()
	if off < 0 || n < 0 {
		return Status{}, false, img.bounds("map", off, n)
	}
	if off >= size || n == 0 {
		return Status{Layer: img}, false, nil
	}
	n = min(n, size-off)
	if img.storage != nil {
		ext, err := img.Map(ctx, off, n)
		if err != nil {
			return Status{}, false, err
		}
		if ext.Kind == driver.ExtentEOF {
			// Rounded up to a sector: the rest of it reads as zeroes.
			return Status{Length: n, Layer: img, Zero: true, Allocated: true}, false, nil
		}
		zero := ext.Kind == driver.ExtentZero || ext.Zero
		return Status{Length: min(ext.Length, n), Layer: img, Data: ext.Kind == driver.ExtentData, Zero: zero, Hole: ext.Hole, Allocated: ext.Kind != driver.ExtentUnallocated && !ext.Hole,
			HasOffset: ext.HasOffset, Offset: ext.HostOffset, File: img}, false, nil
	}
	img.lock()
	ext, err := img.format.Map(ctx, off, n)
	img.unlock()
	if err != nil {
		return Status{}, false, img.fail("map", off, err)
	}
	st := Status{Length: min(ext.Length, n), Layer: img, Compressed: ext.Compressed}
	if file, ok := ext.Child.(*Image); ok && ext.HasOffset {
		// A child of another kind changes the bytes on the way: they have no offset.
		st.HasOffset, st.Offset, st.File = true, ext.HostOffset, file
	}
	switch ext.Kind {
	case driver.ExtentEOF:
		return Status{Layer: img}, false, nil
	case driver.ExtentData, driver.ExtentEncoded:
		st.Data, st.Allocated = true, true
	case driver.ExtentZero:
		st.Zero, st.Allocated = true, true
	case driver.ExtentUnallocated:
		if img.backing == nil || off >= img.backing.Size() {
			st.Zero = true
		} else {
			st.Length = min(st.Length, img.backing.Size()-off)
		}
	}
	return st, ext.Recurse && st.Data && st.HasOffset && st.File != nil, nil
}

// recurse refines a Data extent by the holes of the child that holds it.
func (img *Image) recurse(ctx context.Context, st Status) (Status, error) {
	sub, err := st.File.StatusLayer(ctx, st.Offset, st.Length)
	if err != nil {
		return Status{}, err
	}
	if sub.Length == 0 { // beyond the end of the child
		st.Zero = true
		return st, nil
	}
	st.Length = sub.Length
	st.Zero = sub.Zero
	if img.desc.PassesThrough() != "" {
		// The child answers in place of the format.
		sub.Layer = img
		return sub, nil
	}
	return st, nil
}

// ReadsZero says whether a range is known to read as zeroes without reading it.
func (img *Image) ReadsZero(ctx context.Context, off, n int64) (bool, error) {
	for n > 0 {
		st, err := img.Status(ctx, off, n, nil)
		if err != nil || (st.Length > 0 && !st.Zero) {
			return false, err
		}
		if st.Length == 0 {
			return true, nil
		}
		off, n = off+st.Length, n-st.Length
	}
	return true, nil
}
