// Package vdi implements the disk images of VirtualBox.
//
// An image is a header of 512 bytes, a table with a number of 32 bits for each block
// of the disk, and blocks of equal size, 1 MiB by default. The number says which of
// the blocks in the file it is; two values stand for a block that is absent and for
// one that reads as zeroes. There is no specification but the sources of VirtualBox
// (VDICore.h, VDIHEADER1PLUS). All numbers are little-endian.
//
// New blocks are appended. The header counts them, and other programs append where
// the count says: it is made durable before the table entries of new blocks are, so
// that a crash leaves blocks that nothing refers to, but no block that somebody else
// takes for free. For the same reason no block ever leaves the table: what is
// discarded is punched into the file.
//
// Images are made with the blocks at a multiple of 1 MiB, as VirtualBox does it. The
// room behind the table lets the disk grow without moving a block.
//
// A differencing image names its parent by an identifier; it is looked for among the files
// beside it and in the folder above. It must be in the state that the image names.
//
// Not supported: images of version 0 and 1.0, and writing where blocks have extra
// data in front (no program makes them).
package vdi
