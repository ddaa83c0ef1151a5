// Package fat has the structures of FAT12, FAT16 and FAT32 file systems: where things are in
// a volume, boot sectors, table entries, directory entries with long names, and the reading
// of a whole file system that somebody else wrote, with limits against hostile ones.
//
// Sections are those of the FAT File System Specification (Microsoft, version 1.03). Nothing
// here holds a file system in memory or does I/O of its own: package fat of the library and
// the driver vvfat do.
package fat
