package qcow2

import "github.com/cowl-disk/cowl/block/driver"

// withinFile shortens a data extent for guest offset off to the clusters that the file
// holds. One that is beyond its end is an error: the file was cut short, and what the
// guest wrote is lost.
//
// A cluster that begins in the file and ends behind it is sound: zeroes at the end of a
// cluster need not be written, by QEMU and by us, and after a crash refcounts tell of
// clusters behind it that were never written. An external data file may be shorter than
// the disk, and is none of this.
func (im *image) withinFile(off int64, x *driver.Extent) error {
	size := im.file.Size()
	end := im.alignUp(size)
	if x.HostOffset >= end {
		return driver.Errorf(driver.ErrCorrupt, "the data at guest offset %#x lies beyond the end of the image file (host offset %#x, %d bytes): the file was cut short", off, x.HostOffset, size)
	}
	x.Length = min(x.Length, end-x.HostOffset)
	return nil
}
