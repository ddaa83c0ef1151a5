package parallels

import (
	"context"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// Resize implements driver.Resizer. Clusters that are in the way of a longer table
// move to the end of the file first; then the header takes effect with one write.
func (im *image) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff {
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", opt.Prealloc)
	}
	size = roundUp(size, sectorSize)
	im.mu.Lock()
	h := im.hdr
	im.mu.Unlock()
	if size < 0 || roundUp(size, im.cluster)/im.cluster > maxEntries || !h.ext && size/sectorSize > math.MaxUint32 {
		return driver.Errorf(driver.ErrInvalid, "image size is too large for this cluster size")
	}
	if h.extOff != 0 {
		return driver.Errorf(driver.ErrUnsupported, "an image with a format extension cannot be resized")
	}
	old := im.Size()
	if size < old {
		if end := min(roundUp(size, im.cluster), old); end > size {
			if err := im.ZeroData(ctx, size, end-size); err != nil {
				return err
			}
		}
		if err := im.Truncate(ctx, size); err != nil {
			return err
		}
	} else if err := im.Prepare(ctx); err != nil { // marks the image as in use
		return err
	}
	im.mu.Lock()
	h = im.hdr
	im.mu.Unlock()
	before := h.tableEnd()
	h.entries = uint32(max(roundUp(size, im.cluster)/im.cluster, int64(h.entries)))
	h.sectors = uint64(size / sectorSize)
	if end := h.tableEnd(); end > h.dataStart {
		start := h.dataStart + roundUp(end-h.dataStart, im.cluster)
		if err := im.Vacate(ctx, start); err != nil {
			return err
		}
		h.dataStart = start
		h.dataOff = uint32(start / sectorSize)
	}
	if n := h.tableEnd() - before; n > 0 {
		if err := clustertable.WriteZeroes(ctx, im.file, before, n); err != nil {
			return err
		}
	}
	if err := im.Flush(ctx); err != nil {
		return err
	}
	im.mu.Lock()
	err := im.writeHeader(ctx, h)
	im.mu.Unlock()
	if err != nil {
		return err
	}
	if err := im.Resized(im.layout(&h), size); err != nil || size >= old {
		return err
	}
	return im.Compact(ctx)
}
