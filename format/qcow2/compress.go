package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// Encode compresses one cluster.
func (im *image) Encode(dst, cluster []byte) ([]byte, bool, error) {
	if im.external {
		return dst, false, driver.Errorf(driver.ErrUnsupported, "images with an external data file hold no compressed clusters")
	}
	if int64(len(cluster)) != im.clusterSize {
		return dst, false, driver.Errorf(driver.ErrInvalid, "%d bytes given to compress, not a cluster", len(cluster))
	}
	return im.codec.Encode(dst, cluster)
}

// WriteEncoded stores a compressed cluster. Several share a host cluster.
func (im *image) WriteEncoded(ctx context.Context, off int64, enc []byte) error {
	switch {
	case im.encrypted():
		// The format would store it unencrypted.
		return driver.Errorf(driver.ErrUnsupported, "compression and encryption not supported at the same time")
	case im.external:
		return driver.Errorf(driver.ErrUnsupported, "images with an external data file hold no compressed clusters")
	case off < 0 || off&(im.clusterSize-1) != 0 || int64(len(enc)) >= im.clusterSize || len(enc) == 0:
		return driver.Errorf(driver.ErrInvalid, "%d compressed bytes at guest offset %#x are not a cluster", len(enc), off)
	case off >= im.size.Load():
		return driver.Errorf(driver.ErrRange, "guest offset %#x is beyond the end of the disk", off)
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	im.bm.Mark(off, im.clusterSize)
	c := off >> im.clusterBits
	if err := im.relieve(ctx); err != nil {
		return err
	}
	if err := im.needTables(ctx, c, c+1); err != nil {
		return err
	}
	p, err := im.pend.Reserve(ctx, c, c+1)
	if err != nil {
		return err
	}
	e, err := im.entry(ctx, c)
	if err == nil && (im.kind(e) != kindUnallocated && im.kind(e) != kindZeroPlain) {
		err = driver.Errorf(driver.ErrInvalid, "the cluster at guest offset %#x is already allocated", off)
	}
	var host int64
	if err == nil {
		host, err = im.allocBytes(ctx, int64(len(enc)))
	}
	if err != nil {
		im.pend.Remove(p)
		return err
	}
	im.events.Raise("write_compressed")
	_, err = im.file.WriteAt(ctx, enc, host)
	if err == nil {
		im.events.Raise("l2_update_compressed")
		_, err = im.editEntries(ctx, c, c+1, discardNever, func(_ int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
			return ondisk.L2Entry{Desc: ondisk.EncodeCompressed(host, int64(len(enc)), im.clusterBits)}, true
		})
	}
	if err != nil {
		im.freeNow(ctx, host, int64(len(enc)))
	}
	im.pend.Remove(p)
	return err
}
