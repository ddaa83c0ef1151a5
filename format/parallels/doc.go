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
// writing; clusters that the table names twice are copied then. The dirty bitmaps of a format extension can be
// looked at in an image that is open for reading, and those of a bundle's newest image if the disk is
// in one part. The extension is kept, but an image that was written
// has 0 for the mark, which says that the extension is out of date.
//
// A bundle is a folder (".hdd") with a descriptor, DiskDescriptor.xml, which the protocol
// "file" opens where the folder is named. It lists the parts of the disk, and for each of them the
// files of the disk as it is and of its snapshots: what an image does not have, the one
// below it has. The newest files can be written; those of snapshots are read only. The files
// have to be in the folder.
//
// Not supported: making and resizing bundles, encrypted ones, and changing the bitmaps of a format
// extension.
package parallels
