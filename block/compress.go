package block

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// CanCompress says whether the format stores compressed clusters.
func (img *Image) CanCompress() bool { return img.compressor != nil }

// Encode compresses one cluster for WriteEncoded: see driver.Compressor. It fails with
// driver.ErrUnsupported where the format cannot.
func (img *Image) Encode(dst, cluster []byte) ([]byte, bool, error) {
	if img.compressor == nil {
		return dst, false, img.cannotCompress("encode", -1)
	}
	return img.compressor.Encode(dst, cluster)
}

// WriteEncoded stores a cluster that Encode made at off, which must not be
// allocated.
func (img *Image) WriteEncoded(ctx context.Context, off int64, enc []byte) error {
	if err := img.checkWritable("write", off); err != nil {
		return err
	}
	if img.compressor == nil {
		return img.cannotCompress("write", off)
	}
	img.changing.RLock()
	defer img.changing.RUnlock()
	if err := img.bounds("write", off, 1); err != nil {
		return err
	}
	e := img.guard.Enter()
	defer img.guard.Exit(e)
	img.lock()
	defer img.unlock()
	return img.fail("write", off, img.compressor.WriteEncoded(ctx, off, enc))
}

func (img *Image) cannotCompress(op string, off int64) error {
	return img.fail(op, off, driver.Errorf(driver.ErrUnsupported, "compression is not supported for this file format"))
}
