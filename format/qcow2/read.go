package qcow2

import (
	"context"
	"fmt"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// ReadEncoded reads guest bytes of compressed clusters.
func (im *image) ReadEncoded(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		in := off & (im.clusterSize - 1)
		n := min(int64(len(p)), im.clusterSize-in)
		if err := im.readCompressed(ctx, p[:n], off>>im.clusterBits, in); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// readCompressed reads len(p) bytes from byte in of guest cluster c.
func (im *image) readCompressed(ctx context.Context, p []byte, c, in int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e, err := im.entry(ctx, c)
	if err != nil {
		return err
	}
	if im.kind(e) != kindCompressed {
		return im.readPlain(ctx, p, c, in)
	}
	if int64(len(p)) < im.clusterSize && im.codec.Cached(e.Desc, p, in) {
		return nil
	}
	d := ondisk.DecodeCompressed(e.Desc, im.clusterBits)
	if d.Offset >= im.file.Size() {
		return driver.Errorf(driver.ErrCorrupt, "compressed cluster at guest offset %#x lies beyond the end of the file (offset %#x)", c<<im.clusterBits, d.Offset)
	}
	enc := bufpool.Get(int(min(d.Size, im.file.Size()-d.Offset)))
	defer bufpool.Put(enc)
	im.events.Raise("read_compressed")
	if err := tableio.ReadPadded(ctx, im.file, enc, d.Offset); err != nil {
		return err
	}
	whole := p
	if int64(len(p)) < im.clusterSize {
		whole = bufpool.Get(int(im.clusterSize))
	}
	if err := im.codec.Decode(whole, enc); err != nil {
		if int64(len(p)) < im.clusterSize {
			bufpool.Put(whole)
		}
		return driver.Errorf(driver.ErrCorrupt, "cannot decompress cluster at guest offset %#x (file offset %#x): %w", c<<im.clusterBits, d.Offset, err)
	}
	if int64(len(p)) < im.clusterSize {
		copy(p, whole[in:])
		if old := im.codec.Keep(e.Desc, whole); old != nil {
			bufpool.Put(old)
		}
	}
	return nil
}

// readPlain reads a cluster that was compressed when it was mapped and has been
// rewritten or discarded since.
func (im *image) readPlain(ctx context.Context, p []byte, c, in int64) error {
	for off := c<<im.clusterBits + in; len(p) > 0; {
		x, err := im.Map(ctx, off, int64(len(p)))
		if err != nil {
			return err
		}
		switch x.Kind {
		case driver.ExtentData:
			err = tableio.ReadPadded(ctx, x.Child, p[:x.Length], x.HostOffset)
		case driver.ExtentZero:
			clear(p[:x.Length])
		case driver.ExtentUnallocated:
			if im.hasBacking() {
				err = fmt.Errorf("guest offset %#x changed while it was read", off)
			}
			clear(p[:x.Length])
		case driver.ExtentEncoded:
			return im.readCompressed(ctx, p, c, off&(im.clusterSize-1))
		default:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		p, off = p[x.Length:], off+x.Length
	}
	return nil
}

// entry returns the L2 entry of guest cluster c.
func (im *image) entry(ctx context.Context, c int64) (ondisk.L2Entry, error) {
	var e ondisk.L2Entry
	// The L1 entry is checked here: the cache does not know it.
	if err := im.needSlices(ctx, c, c+1); err != nil {
		return e, err
	}
	var i int
	at := func() (off int64) { off, i = im.sliceOffset(c); return off }
	err := im.cache.View(ctx, im.file, at, func(s *clustertable.Slice) {
		if s != nil {
			e = ondisk.LoadL2(s.Data, i, im.extended)
		}
	})
	if err != nil {
		return e, err
	}
	if what := im.badEntry(e); what != "" {
		return e, im.entryError(ctx, c, e, what)
	}
	return e, nil
}
