package block

import (
	"context"
	"io"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/trace"
)

// ReadAt fills p with the bytes of the disk from offset off. Beyond the end it
// returns what there is and io.EOF.
func (img *Image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	trace.BdrvCoPreadv.Log(off, int64(len(p)))
	if err := img.open("read", off); err != nil {
		return 0, err
	}
	size := img.Size()
	if off < 0 {
		return 0, img.bounds("read", off, 0)
	}
	var eof error
	if int64(len(p)) > size-off {
		if off >= size {
			if len(p) == 0 {
				return 0, nil
			}
			return 0, io.EOF
		}
		p, eof = p[:size-off], io.EOF
	}
	if img.storage != nil {
		n, err := img.readStorage(ctx, p, off)
		if err == io.EOF {
			err = img.shorter(off+int64(n), off+int64(len(p)))
			clear(p[n:])
		}
		if err != nil {
			return n, img.fail("read", off+int64(n), err)
		}
		return len(p), eof
	}
	e := img.guard.Enter()
	err := img.readFormat(ctx, p, off)
	img.guard.Exit(e)
	if err != nil {
		return 0, err
	}
	return len(p), eof
}

// readFormat reads a range within the disk, inside the guard.
func (img *Image) readFormat(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		img.lock()
		ext, err := img.format.Map(ctx, off, int64(len(p)))
		img.unlock()
		if err != nil {
			return img.fail("read", off, err)
		}
		if ext.Kind == driver.ExtentEOF || ext.Length <= 0 {
			// The disk shrank under the request.
			clear(p)
			return nil
		}
		q := p[:min(ext.Length, int64(len(p)))]
		switch ext.Kind {
		case driver.ExtentData:
			img.events.Raise("read_aio")
			err = img.readData(ctx, ext.Child, q, off, ext.HostOffset)
		case driver.ExtentZero:
			clear(q)
		case driver.ExtentUnallocated:
			img.events.Raise("read_backing_aio")
			err = img.readBacking(ctx, q, off)
		case driver.ExtentEncoded:
			img.lock()
			err = img.format.ReadEncoded(ctx, q, off)
			img.unlock()
		}
		if err != nil {
			return img.fail("read", off, err)
		}
		p, off = p[len(q):], off+int64(len(q))
		if len(p) > 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// shorter is the error of a read up to wanted that the storage answered only up to
// end, although its size says more. A storage that was made smaller meanwhile says
// so by its size; then there is no error.
func (img *Image) shorter(end, wanted int64) error {
	size := img.Size()
	if end >= min(size, wanted) {
		return nil
	}
	return driver.Errorf(driver.ErrTruncated, "'%s' ends at %d, but should have %d bytes: %w", img.name, end, size, syscall.EIO)
}

// readData reads guest bytes from off on that a format has in a child at host. The
// last cluster of a file may lack its end, which reads as zeroes. A cluster that
// begins behind the end of the file is lost: that is an error, not zeroes.
func (img *Image) readData(ctx context.Context, child driver.Storage, p []byte, off, host int64) error {
	n, err := child.ReadAt(ctx, p, host)
	if err != io.EOF {
		return err
	}
	clear(p[n:])
	unit := max(img.limits.ClusterSize, sectorSize)
	lost := max(host, (child.Size()+unit-1)/unit*unit)
	if img.Tree().PassedThrough() != nil || lost >= host+int64(len(p)) {
		return nil
	}
	return &IOError{Op: "read", Image: img.name, Offset: off + lost - host, Err: driver.Errorf(driver.ErrTruncated,
		"the data of offset %d should be at %d of '%s', which has %d bytes: %w", off+lost-host, lost, nameOf(child), child.Size(), syscall.EIO)}
}

// nameOf names a child for messages.
func nameOf(child driver.Storage) string {
	if img, ok := child.(*Image); ok {
		return img.name
	}
	return "the file"
}

// sectorSize is the unit in bytes in which the size of a disk counts.
const sectorSize = 512

// readChild reads from a child; what is beyond its end reads as zeroes.
func readChild(ctx context.Context, child driver.Storage, p []byte, off int64) error {
	n, err := child.ReadAt(ctx, p, off)
	if err == io.EOF {
		clear(p[n:])
		return nil
	}
	return err
}

func (img *Image) readBacking(ctx context.Context, p []byte, off int64) error {
	if img.backing == nil {
		clear(p)
		return nil
	}
	return readChild(ctx, img.backing, p, off)
}
