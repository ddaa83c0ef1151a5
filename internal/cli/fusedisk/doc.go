// Package fusedisk shows a disk as a regular file, in a file system of its own by way of
// FUSE: other programs read and write the disk of an image by its bytes, and the kernel
// can mount what is in it.
//
// Writes are acknowledged when the image has them; fsync(2) flushes the image. Fallocate
// with holes discards, and SEEK_HOLE finds what takes no room.
package fusedisk

// fileName is the name of the file that shows the disk.
const fileName = "disk"
