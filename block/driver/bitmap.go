package driver

import "context"

// Bitmapper is implemented by formats whose images hold dirty bitmaps: records of
// which parts of the disk were written since some moment. The node keeps the
// enabled ones up to date at every change of the disk, and makes them durable with
// Close (and with Flush where it can). Names are unique within an image.
//
// An image that was not closed properly, or was changed by a program that does not
// know bitmaps, holds bitmaps that are no longer true: Inconsistent. They can be
// looked at by Bitmaps and removed; every other call refuses them with ErrBitmaps,
// and so does a change of the size of the disk. A name that no bitmap has is
// ErrNoBitmap.
//
// AddBitmap, RemoveBitmap, ClearBitmap, EnableBitmap and SetBitmap need an image that
// is open for writing. All calls are safe beside reads and writes of the disk; but a
// write is recorded when it begins, so a caller that clears or enables a bitmap, for
// what is written from then on, must keep writes out meanwhile.
type Bitmapper interface {
	// Bitmaps lists them in the order in which the image has them. ErrUnsupported:
	// this image, unlike others of its format, cannot have any.
	Bitmaps(ctx context.Context) ([]BitmapInfo, error)
	// AddBitmap adds a bitmap with no bit set.
	AddBitmap(ctx context.Context, spec BitmapSpec) error
	// RemoveBitmap removes a bitmap, whatever its state.
	RemoveBitmap(ctx context.Context, name string) error
	// ClearBitmap unsets all bits.
	ClearBitmap(ctx context.Context, name string) error
	// EnableBitmap starts or stops recording.
	EnableBitmap(ctx context.Context, name string, on bool) error
	// SetBitmap marks n bytes at off dirty, whole granules.
	SetBitmap(ctx context.Context, name string, off, n int64) error
	// BitmapExtent tells whether the byte at off is dirty, and how many bytes from
	// there on, at most n and within the disk, are of the same state.
	BitmapExtent(ctx context.Context, name string, off, n int64) (length int64, dirty bool, err error)
}

// BitmapSpec describes a new bitmap.
type BitmapSpec struct {
	Name        string // 1 to 1023 bytes
	Granularity int64  // bytes per bit, a power of two from 512 to 2 GiB; 0: the default
	Disabled    bool   // do not record yet
}

// BitmapInfo describes a bitmap.
type BitmapInfo struct {
	Name         string
	Granularity  int64 // bytes
	Size         int64 // of the disk that it is of: not that of a snapshot that is shown
	Enabled      bool  // records changes
	Inconsistent bool  // no longer true: see Bitmapper
	Dirty        int64 // bytes of the disk in dirty granules, 0 if Inconsistent
}
