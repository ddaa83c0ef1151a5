package qcow2

import (
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// downgrade makes a version 2 image of one of version 3, if it has nothing that
// version 2 cannot say. Zero clusters become data, or unallocated where there is
// no backing file, before the version changes.
func (im *image) downgrade(ctx context.Context, progress func(done, total int64)) error {
	refuse := func(format string, args ...any) error {
		return driver.Errorf(driver.ErrUnsupported, format, args...)
	}
	if im.external {
		return refuse("cannot downgrade an image with a data file")
	}
	if im.refOrder != 4 {
		return refuse("compat=0.10 requires refcount_bits=16")
	}
	for i := range im.snap.Entries {
		if s := &im.snap.Entries[i]; s.VMStateSize != 0 || int64(s.DiskSize) != im.size.Load() {
			return refuse("internal snapshots prevent downgrade of image")
		}
	}
	if err := im.markClean(ctx); err != nil {
		return err
	}
	if bits := im.hdr.Incompatible &^ ondisk.IncompatCompression; bits != 0 {
		return refuse("cannot downgrade an image with incompatible features %#x set", bits)
	}
	if im.compression != ondisk.CompressionZlib {
		if err := im.refuseCompressed(ctx); err != nil {
			return err
		}
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	if err := im.expandZeroes(ctx, progress); err != nil {
		return driver.Errorf(nil, "failed to turn zero into data clusters: %w", err)
	}
	if err := im.expandSnapshots(ctx); err != nil {
		return driver.Errorf(nil, "failed to turn zero into data clusters: %w", err)
	}
	return im.rewriteHeader(ctx, func(h *ondisk.Header) {
		h.Version = 2
		h.Incompatible, h.Compatible, h.Autoclear = 0, 0, 0
		h.CompressionType, h.Extra = ondisk.CompressionZlib, nil
		im.exts = im.withoutExtension(ondisk.ExtFeatureNames)
	})
}

var errZstdClusters = driver.Errorf(driver.ErrUnsupported,
	"cannot downgrade an image with zstd compression type and existing compressed clusters")

// refuseCompressed refuses an image that holds compressed clusters, of the disk or
// of a snapshot.
func (im *image) refuseCompressed(ctx context.Context) error {
	im.meta.RLock()
	tables := [][]uint64{slices.Clone(im.l1.Entries)}
	im.meta.RUnlock()
	for i := range im.snap.Entries {
		s := &im.snap.Entries[i]
		l1, err := im.readTable(ctx, int64(s.L1TableOffset), int64(s.L1Size))
		if err != nil {
			return err
		}
		tables = append(tables, l1)
	}
	for _, l1 := range tables {
		if found, err := im.findCompressed(ctx, l1); err != nil {
			return err
		} else if found {
			return errZstdClusters
		}
	}
	return nil
}

// findCompressed looks for compressed clusters in all that an L1 table refers to.
// Nothing is waiting to be written.
func (im *image) findCompressed(ctx context.Context, l1 []uint64) (bool, error) {
	buf := make([]byte, im.clusterSize)
	for _, e := range l1 {
		off := int64(e & ondisk.OffsetMask)
		if off == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if err := tableio.ReadPadded(ctx, im.file, buf, off); err != nil {
			return false, err
		}
		for i := range int(im.clusterSize / im.l2EntrySize) {
			if im.kind(ondisk.LoadL2(buf, i, im.extended)) == kindCompressed {
				return true, nil
			}
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
	}
	return false, nil
}

// expandChunk is how many zeroes are written at once.
const expandChunk = 1 << 20

// expandZeroes replaces the zero clusters of the active disk.
func (im *image) expandZeroes(ctx context.Context, progress func(done, total int64)) error {
	size := im.alignUp(im.size.Load())
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if progress != nil {
			progress(off, size)
		}
		x, err := im.mapRange(ctx, off, size-off)
		if err != nil {
			return err
		}
		n := x.Length
		if x.Kind == driver.ExtentZero {
			if im.hasBacking() {
				n = min(n, max(expandChunk, im.clusterSize))
				err = im.zeroRange(ctx, off, n)
			} else {
				err = im.dropZeroes(ctx, off>>im.clusterBits, im.clusters(off+n))
			}
		}
		if err != nil {
			return err
		}
		off += n
	}
	// Beyond the end of the disk are what shrinking has left.
	im.meta.RLock()
	end := int64(len(im.l1.Entries)) << im.l2Bits
	im.meta.RUnlock()
	return im.dropZeroes(ctx, size>>im.clusterBits, end)
}

// dropZeroes makes the zero clusters among [c0, c1) of the disk unallocated.
func (im *image) dropZeroes(ctx context.Context, c0, c1 int64) error {
	return im.change(ctx, c0, c1, changeOptions{how: discardRequest,
		edit: func(_ int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
			if k := im.kind(old); k == kindZeroPlain || k == kindZeroAlloc {
				return ondisk.L2Entry{}, true
			}
			return old, false
		}})
}
