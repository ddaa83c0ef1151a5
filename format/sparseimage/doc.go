// Package sparseimage reads the sparse images of macOS in one file (UDSP, ".sparseimage";
// "Mac OS sparse image format" in the documentation of libmodi and of dfImageTools).
//
// All numbers are big-endian. The header, "sprs", takes 4096 bytes. It says how many
// sectors a band has and how many the disk. A table of numbers follows: that at position
// i belongs to the band that lies i bands behind the header, and says which band of the
// disk it is, counted from 1; 0 is a free place. Where the disk has more bands than the
// table has places, the header names a further node of 4096 bytes with a table of its
// own, behind which its bands lie, and so on. What has no band reads as zeroes.
//
// Images are read only. Package applecrypt reads encrypted ones (key-secret). There are no locks: nothing changes after Open.
package sparseimage
