package parallels

import (
	"context"
	"errors"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/qapi"
)

// readOnlyImage is an image that is open for reading: its bitmaps can be looked at. One that is
// written to has none that are true.
type readOnlyImage struct {
	*image
	budget *driver.Budget

	extMu  sync.Mutex
	loaded bool
	list   []*dirtyBitmap
}

var (
	_ driver.Bitmapper = (*readOnlyImage)(nil)
	_ driver.Describer = (*readOnlyImage)(nil)
)

// stale says whether programs may have written to the image that do not know bitmaps: they leave
// 0, or the mark. What others write when they close an image is not the same everywhere.
func (h *header) stale() bool { return h.inUse == 0 || h.inUse == inUseMark }

// bitmaps returns the bitmaps of the extension, which are read when first asked for.
func (im *readOnlyImage) bitmaps(ctx context.Context) ([]*dirtyBitmap, error) {
	im.extMu.Lock()
	defer im.extMu.Unlock()
	if im.loaded || im.hdr.extOff == 0 {
		return im.list, nil
	}
	list, err := readExtension(ctx, im.file, &im.hdr, im.budget)
	if err != nil {
		return nil, err
	}
	im.list, im.loaded = list, true
	return list, nil
}

// extent is BitmapExtent for a bitmap.
func (im *readOnlyImage) extent(ctx context.Context, d *dirtyBitmap, off, n int64) (int64, bool, error) {
	bit, end := off/d.granularity, roundUp(off+n, d.granularity)/d.granularity
	bits, set, err := d.run(ctx, im.file, im.cluster, bit, end)
	return min(n, (bit+bits)*d.granularity-off), set, err
}

// Bitmaps implements driver.Bitmapper.
func (im *readOnlyImage) Bitmaps(ctx context.Context) ([]driver.BitmapInfo, error) {
	list, err := im.bitmaps(ctx)
	if err != nil {
		return nil, err
	}
	stale := im.hdr.stale()
	var out []driver.BitmapInfo
	for _, d := range list {
		i := driver.BitmapInfo{Name: d.name, Granularity: d.granularity, Size: im.Size(), Enabled: !stale, Inconsistent: stale}
		for off := int64(0); off < im.Size() && !stale; {
			n, dirty, err := im.extent(ctx, d, off, im.Size()-off)
			if err != nil {
				return nil, err
			}
			if dirty {
				i.Dirty += n
			}
			off += n
		}
		out = append(out, i)
	}
	return out, nil
}

// BitmapExtent implements driver.Bitmapper.
func (im *readOnlyImage) BitmapExtent(ctx context.Context, name string, off, n int64) (int64, bool, error) {
	list, err := im.bitmaps(ctx)
	if err != nil {
		return 0, false, err
	}
	for _, d := range list {
		if d.name != name {
			continue
		}
		if im.hdr.stale() {
			return 0, false, driver.Errorf(driver.ErrBitmaps, "bitmap '%s' is inconsistent and cannot be used", name)
		}
		if n = min(n, im.Size()-off); off < 0 || n <= 0 {
			return 0, false, driver.Errorf(driver.ErrRange, "offset %d: beyond the end of the disk", off)
		}
		return im.extent(ctx, d, off, n)
	}
	return 0, false, driver.Errorf(driver.ErrNoBitmap, "dirty bitmap '%s' not found", name)
}

// Info implements driver.Describer. An extension that cannot be read is told of by what needs it.
func (im *readOnlyImage) Info(ctx context.Context) (*driver.Info, error) {
	list, err := im.bitmaps(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	if len(list) == 0 {
		return &driver.Info{}, nil
	}
	var out []qapi.Qcow2BitmapInfo
	for _, d := range list {
		flags := []string{"auto"}
		if im.hdr.stale() {
			flags = []string{"in-use"}
		}
		out = append(out, qapi.Qcow2BitmapInfo{Name: d.name, Granularity: uint32(d.granularity), Flags: flags})
	}
	return &driver.Info{Specific: &qapi.ImageInfoSpecific{Type: "parallels", Data: qapi.InfoSpecificParallels{Bitmaps: out}}}, nil
}

var errReadOnlyBitmaps = errors.Join(driver.ErrUnsupported, errors.New("bitmaps of Parallels can be read only"))

// AddBitmap implements driver.Bitmapper.
func (im *readOnlyImage) AddBitmap(context.Context, driver.BitmapSpec) error {
	return errReadOnlyBitmaps
}

// RemoveBitmap implements driver.Bitmapper.
func (im *readOnlyImage) RemoveBitmap(context.Context, string) error { return errReadOnlyBitmaps }

// ClearBitmap implements driver.Bitmapper.
func (im *readOnlyImage) ClearBitmap(context.Context, string) error { return errReadOnlyBitmaps }

// EnableBitmap implements driver.Bitmapper.
func (im *readOnlyImage) EnableBitmap(context.Context, string, bool) error {
	return errReadOnlyBitmaps
}

// SetBitmap implements driver.Bitmapper.
func (im *readOnlyImage) SetBitmap(context.Context, string, int64, int64) error {
	return errReadOnlyBitmaps
}
