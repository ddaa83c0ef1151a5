package block

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
)

// ReadAt fills p with the bytes of the disk from offset off. Beyond the end it
// returns what there is and io.EOF.
func (img *Image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
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
			// The object shrank, or ends inside its last sector.
			clear(p[n:])
			err = nil
		}
		if err != nil {
			return n, img.fail("read", off, err)
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
			err = readChild(ctx, ext.Child, q, ext.HostOffset)
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

// readChild reads from a child; what lies beyond its end reads as zeroes.
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
