package qcow

import (
	"context"
	"errors"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/deflate"
)

// window is how far back compressed data may refer: readers keep no more.
const window = 4096

// ReadEncoded implements driver.Format.
func (im *image) ReadEncoded(ctx context.Context, p []byte, off int64) error {
	u := off / im.hdr.cluster
	e, err := im.Entry(ctx, u)
	if err != nil {
		return err
	}
	if e.State != blockmap.Encoded {
		return driver.Errorf(driver.ErrInvalid, "cluster %d is not compressed", u)
	}
	enc := bufpool.Get(int(e.Length))
	defer bufpool.Put(enc)
	n, err := im.file.ReadAt(ctx, enc, e.Host)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	whole, from := p, int(off-u*im.hdr.cluster)
	if from > 0 {
		whole = bufpool.Get(from + len(p))
		defer bufpool.Put(whole)
	}
	if err := im.inflate.Fill(whole, enc[:n]); err != nil {
		return im.decodeError(u, e, err)
	}
	if from > 0 {
		copy(p, whole[from:])
	}
	return nil
}

func (im *image) decodeError(u int64, e blockmap.Entry, err error) error {
	return driver.Errorf(driver.ErrCorrupt, "cannot decompress cluster %d (%d bytes at file offset %d): %w", u, e.Length, e.Host, err)
}

// Encode implements driver.Compressor.
func (im *image) Encode(dst, cluster []byte) ([]byte, bool, error) {
	if len(cluster) > window {
		return dst, false, nil // it might refer back further than readers can look
	}
	e := im.encoders.Get().(*deflate.Encoder)
	defer im.encoders.Put(e)
	enc, ok := e.Append(dst, cluster, len(cluster)-1)
	return enc, ok, nil
}

// WriteEncoded implements driver.Compressor.
func (im *image) WriteEncoded(ctx context.Context, off int64, enc []byte) error {
	if im.hdr.crypt != cryptNone {
		return driver.Errorf(driver.ErrUnsupported, "encrypted images take no compressed clusters")
	}
	return im.StoreEncoded(ctx, off, enc)
}
