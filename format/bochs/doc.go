// Package bochs reads disk images of the emulator Bochs (its manual, "Disk image
// modes"; iodev/hdimage/hdimage.h).
//
// A redolog has a header of 512 bytes, a catalog with an entry of 32 bits for each
// extent, and the extents in the order in which they were written first. In front of
// the data of an extent is a bitmap with a bit for each sector, the lowest bit first:
// set if the sector was written. In a "Growing" image all other sectors are zeroes; an
// "Undoable" or "Volatile" redolog holds what was changed of another disk. It does not
// name that disk: it is BASE if the redolog is BASE.redolog, as Bochs calls it, and else
// has to be given as the backing file.
//
// A "sparse" image has a header of 256 bytes with another magic, a table with an entry
// of 32 bits for each page, and the pages.
//
// All numbers are little endian. Tables stay in the file; pages of them are read when
// they are needed. There is no writing.
package bochs
