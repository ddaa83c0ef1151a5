// Package dmg reads Apple disk images in the Universal Disk Image Format (J. Levin,
// "Demystifying the DMG file format"; the documentation of libmodi; hdiutil(1)).
//
// A trailer of 512 bytes at the end of the file ("koly") says where a property list or
// a resource fork is. Either holds tables ("mish"), one for each partition, of runs of
// sectors: zeroes, plain bytes, or chunks in one of the encodings zlib, bzip2, ADC,
// LZFSE (with LZVN) and LZMA (in an .xz container). An image can be cut into segments,
// NAME.dmg and NAME.002.dmgpart and so on. An image without a trailer, as hdiutil makes
// it for the format UDRW, is the disk itself; it is taken for one if it begins as a disk
// with partitions or with a file system of Apple does.
//
// The property list is read as a stream, so that only the runs are held in memory,
// within the budget. Package chunks reads the chunks. Check compares contents with the
// checksums of the image. There is no writing. Package applecrypt reads
// encrypted images (key-secret).
package dmg
