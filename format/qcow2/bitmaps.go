package qcow2

import (
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/bitmaps"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// Bitmaps lists the bitmaps.
func (im *image) Bitmaps(ctx context.Context) ([]driver.BitmapInfo, error) { return im.bm.List(ctx) }

// BitmapExtent tells where a bitmap is dirty.
func (im *image) BitmapExtent(ctx context.Context, name string, off, n int64) (int64, bool, error) {
	return im.bm.Extent(ctx, name, off, n)
}

// AddBitmap adds a bitmap.
func (im *image) AddBitmap(ctx context.Context, spec driver.BitmapSpec) error {
	return im.bm.Add(ctx, spec)
}

// RemoveBitmap removes a bitmap.
func (im *image) RemoveBitmap(ctx context.Context, name string) error {
	return im.bm.Remove(ctx, name)
}

// EnableBitmap starts or stops recording.
func (im *image) EnableBitmap(ctx context.Context, name string, on bool) error {
	return im.bm.Enable(ctx, name, on)
}

// ClearBitmap unsets all bits.
func (im *image) ClearBitmap(ctx context.Context, name string) error { return im.bm.Clear(ctx, name) }

// SetBitmap marks a range dirty.
func (im *image) SetBitmap(ctx context.Context, name string, off, n int64) error {
	return im.bm.SetRange(ctx, name, off, n)
}

var _ driver.Bitmapper = (*image)(nil)

// loadBitmaps reads the bitmap directory, and warns of bitmaps that the header names
// and that are no longer true.
func (im *image) loadBitmaps(ctx context.Context) error {
	if im.bitmapsStale {
		im.env.Warn(im.staleBitmaps())
	}
	if im.bitmapsExt.Count == 0 || im.access.Check {
		return nil
	}
	return im.bm.Load(ctx)
}

// staleBitmaps words the warning about bitmaps that have become untrue.
func (im *image) staleBitmaps() string {
	text := "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent"
	if im.version < 3 {
		text = "This qcow2 v2 image contains bitmaps, but they may have been modified by a program without persistent bitmap support; so now they must all be considered inconsistent"
	}
	return text + "\nSome clusters may be leaked, run 'qemu-img check -r' on the image file to fix."
}

// bitmapHost is the image as its bitmaps see it.
type bitmapHost struct{ im *image }

func (h bitmapHost) Version() uint32                      { return h.im.version }
func (h bitmapHost) ClusterBits() uint32                  { return h.im.clusterBits }
func (h bitmapHost) DiskSize() int64                      { return h.im.size.Load() }
func (h bitmapHost) File() driver.Storage                 { return h.im.file }
func (h bitmapHost) Extension() ondisk.BitmapsExtension   { return h.im.bitmapsExt }
func (h bitmapHost) BeginWrite(ctx context.Context) error { return h.im.beginWrite(ctx) }
func (h bitmapHost) Refused() bool                        { return h.im.refused.Load() }

func (h bitmapHost) ReadTable(ctx context.Context, off, n int64) ([]uint64, error) {
	return h.im.readTable(ctx, off, n)
}

func (h bitmapHost) Allocate(ctx context.Context, n, least int64) (bitmaps.Range, error) {
	host, got, _, err := h.im.allocRun(ctx, n, least)
	return bitmaps.Range{Off: host, End: host + got<<h.im.clusterBits}, err
}

func (h bitmapHost) Free(ctx context.Context, r bitmaps.Range) {
	h.im.freeNow(ctx, r.Off, r.End-r.Off)
}

// ExtensionFits says whether the header has room for the bitmaps extension, so that
// Close does not find out.
func (h bitmapHost) ExtensionFits() error {
	im := h.im
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	if im.bitmapsExt.Count > 0 {
		return nil
	}
	exts := im.exts
	defer func() { im.exts = exts }()
	im.exts = append(slices.Clone(exts), ondisk.Extension{Type: ondisk.ExtBitmaps, Data: ondisk.BitmapsExtension{}.Append(nil)})
	_, err := im.encodeHeader(0)
	return err
}

func (h bitmapHost) Commit(ctx context.Context, x ondisk.BitmapsExtension) error {
	im := h.im
	im.flushMu.Lock()
	err := im.writebackAll(ctx)
	im.flushMu.Unlock()
	if err != nil {
		return err
	}
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	return im.writeBitmapsExtension(ctx, x)
}

func (h bitmapHost) FreeLater(list []bitmaps.Range) {
	a := &h.im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holdSpans()
	for _, r := range list {
		a.ready = append(a.ready, drop{off: r.Off, n: r.End - r.Off, how: discardOther})
		a.readyLen.Add(r.End - r.Off)
	}
}

// writeBitmapsExtension writes the header with another bitmaps extension, or
// without one if x is zero. hdrMu is held.
func (im *image) writeBitmapsExtension(ctx context.Context, x ondisk.BitmapsExtension) error {
	hdr, exts, old := im.hdr, im.exts, im.bitmapsExt
	im.exts = im.withoutExtension(ondisk.ExtBitmaps)
	im.hdr.Autoclear &^= ondisk.AutoclearBitmaps
	if x.Count > 0 {
		im.hdr.Autoclear |= ondisk.AutoclearBitmaps
		// Before the feature names, which fill the first sector: what is in it is
		// written at once.
		at := slices.IndexFunc(im.exts, func(e ondisk.Extension) bool { return e.Type == ondisk.ExtFeatureNames })
		if at < 0 {
			at = len(im.exts)
		}
		im.exts = slices.Insert(im.exts, at, ondisk.Extension{Type: ondisk.ExtBitmaps, Data: x.Append(nil)})
	}
	im.bitmapsExt = x
	if err := im.writeHeader(ctx); err != nil {
		im.hdr, im.exts, im.bitmapsExt = hdr, exts, old
		return driver.Errorf(nil, "failed to update bitmap extension: %w", err)
	}
	return nil
}
