// Package parallels implements the disk images of Parallels, versions of the magic
// "WithoutFreeSpace" and "WithouFreSpacExt".
//
// The specification is docs/interop/parallels of the QEMU project. An image is a header
// of 64 bytes, a table (BAT) with a number of 32 bits for each cluster of the disk,
// and clusters: the number says where a cluster lies, in sectors or in clusters of
// the file; 0 stands for zeroes. All numbers are little-endian.
//
// The in-use mark is durable before the first change and taken back by Close. An image
// that has it, or whose data offset is wrong, is repaired when it is opened for
// writing. A format extension (dirty bitmaps) is kept, but an image that was written
// has 0 for the mark, which says that the extension is out of date.
//
// Not supported: bundles (folders with a DiskDescriptor.xml), and changing the bitmaps
// of a format extension.
package parallels
