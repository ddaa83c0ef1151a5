package export

import (
	"context"
	"os"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
)

// plainFile is the file that holds the bytes of a disk from offset shift on. The
// zero value is none.
type plainFile struct {
	f       *os.File
	storage driver.Storage
	shift   int64
}

// findFile returns the file of which the disk of img is a range. Only raw images and
// files without a format are: where others keep data may be used for something else
// while it is being sent.
func findFile(ctx context.Context, img *block.Image) (p plainFile) {
	storage := img.Unwrap()
	if storage == nil {
		format, ok := img.Node().(driver.Format)
		if !ok || img.Format() != "raw" || img.File() == nil {
			return p
		}
		if storage = img.File().Unwrap(); storage == nil {
			return p
		}
		e, err := format.Map(ctx, 0, 1)
		if err != nil || e.Kind != driver.ExtentData || !e.HasOffset {
			return p
		}
		p.shift = e.HostOffset
	}
	if h, ok := driver.Unwrap(storage).(driver.FileHolder); ok {
		p.f, p.storage = h.File(), storage
	}
	return p
}

// FileRange implements server.FileRanger.
func (d *Device) FileRange(off, n int64) (f *os.File, at int64, ok bool) {
	at = d.file.shift + off
	// The end of a disk may lie beyond that of its file.
	return d.file.f, at, d.file.f != nil && at <= d.file.storage.Size()-n
}
