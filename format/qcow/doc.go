// Package qcow implements the first version of QEMU's copy-on-write format.
//
// There is no official specification; M. McLoughlin's "The QCOW Image Format" describes
// it. A table (L1) names tables (L2), which name clusters of the disk; all of them are
// appended to the file as they are needed. A cluster may be compressed: raw deflate with a
// window of 4 KiB. All numbers are big-endian.
//
// Images may be encrypted with AES-128 in CBC mode, sector by sector as the guest numbers
// them; compressed clusters are not. The format of the backing file is not recorded.
//
// The lock order is that of package blockmap; image.mu is a leaf.
package qcow
