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

// findFile returns the file of which the whole disk of img is a range: raw images
// and files without a format are.
func findFile(ctx context.Context, img *block.Image) (p plainFile) {
	storage := img.Unwrap()
	if storage == nil {
		format, ok := img.Tree().Node().(driver.Format)
		if !ok || img.Tree().File() == nil || img.Tree().PassedThrough() != img.Tree().File() {
			return p
		}
		if storage = img.Tree().File().Unwrap(); storage == nil {
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

// FileRange implements server.FileRanger. Of a disk that is in pieces it names those
// in read-only layers: elsewhere clusters may be freed and used for
// something else while they are being sent.
func (d *Device) FileRange(ctx context.Context, off, n int64) (f *os.File, at int64, ok bool) {
	file := d.file
	if file.f == nil {
		st, err := d.img.Status(ctx, off, n, nil)
		if err != nil || st.Length < n || !st.Data || st.Zero || st.Compressed || !st.HasOffset || st.File.Writable() {
			return nil, 0, false
		}
		file.storage = st.File.Unwrap()
		if file.storage == nil {
			return nil, 0, false
		}
		h, ok := driver.Unwrap(file.storage).(driver.FileHolder)
		if !ok {
			return nil, 0, false
		}
		file.f, file.shift = h.File(), st.Offset-off
	}
	at = file.shift + off
	// A disk may end beyond the end of its file.
	return file.f, at, file.f != nil && at <= file.storage.Size()-n
}
