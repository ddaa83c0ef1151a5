package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// withinFile shortens a data extent for guest offset off to what the file holds. An
// extent that lies beyond its end is an error: the file was cut short, and what the
// guest wrote is lost.
//
// A cluster that begins in the file and ends behind it is sound where it is the last
// in use: zeroes at the end of a cluster need not be written, and QEMU leaves such
// files. Where refcounts tell of clusters behind it the file was cut short, unless
// they are in a state of change. A raw or other external data file may be shorter than
// the disk, and is none of this.
func (im *image) withinFile(ctx context.Context, off int64, x *driver.Extent) error {
	size := im.file.Size()
	end := im.alignUp(size)
	if end != size && x.HostOffset+x.Length > im.alignDown(size) && im.cutShort(ctx) {
		end = im.alignDown(size)
	}
	if x.HostOffset >= end {
		return driver.Errorf(driver.ErrCorrupt, "the data at guest offset %#x lies beyond the end of the image file (host offset %#x, %d bytes): the file was cut short", off, x.HostOffset, size)
	}
	x.Length = min(x.Length, end-x.HostOffset)
	return nil
}

// cutShort says whether a cluster that lies wholly behind the end of the file is in
// use.
func (im *image) cutShort(ctx context.Context) bool {
	switch im.cut.Load() {
	case 1:
		return false
	case 2:
		return true
	}
	im.hdrMu.Lock()
	dirty := im.hdr.Incompatible&ondisk.IncompatDirty != 0
	table, regions := int64(im.hdr.RefcountTableOffset), int64(im.hdr.RefcountTableClusters)<<(im.clusterBits-3)
	im.hdrMu.Unlock()
	v := int32(1)
	// While an image is written, refcounts are ahead of the file.
	if !dirty && !im.begun.Load() && im.usedFrom(ctx, table, regions, im.clusters(im.file.Size())) {
		v = 2
	}
	im.cut.Store(v)
	return v == 2
}

// usedFrom says whether a cluster from first on has a refcount in the blocks that the
// file holds. What cannot be read counts for nothing.
func (im *image) usedFrom(ctx context.Context, table, regions, first int64) bool {
	buf := make([]byte, im.clusterSize)
	perBlock := int64(1) << im.refBlockBits
	for region := first / perBlock; region < regions && ctx.Err() == nil; region++ {
		var entry [8]byte
		if table+region*8 >= im.file.Size() || im.readPadded(ctx, im.file, entry[:], table+region*8) != nil {
			return false
		}
		off := int64(be64(entry[:]) &^ ondisk.ReftReservedMask)
		if off <= 0 || off >= im.file.Size() || im.readPadded(ctx, im.file, buf, off) != nil {
			continue
		}
		from := max(first-region*perBlock, 0)
		if nextUsed(buf, int(from), int(perBlock), im.refOrder) < int(perBlock) {
			return true
		}
	}
	return false
}
