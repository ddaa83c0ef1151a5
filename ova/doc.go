// Package ova reads and writes appliances in the Open Virtualization Format (DMTF DSP0243):
// a tar archive with a descriptor, a manifest with digests and disks.
//
// Open finds the members and the disks of an archive without unpacking it: a disk is a range of
// bytes of the file. Pack writes an archive in one pass over the disks, whose sizes and digests
// need not be known before. The package opens no files and no disk images itself.
//
// Errors wrap ErrFormat, ErrLimit, ErrUnsupported or ErrNoDisk, or are those of the reader and writer.
package ova
