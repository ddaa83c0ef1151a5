// Package partition reads the partition tables of disks: master boot records with
// their extended partitions, and GUID partition tables (UEFI specification 2.10,
// chapter 5). It takes an io.ReaderAt and a size, and so works on files, on
// block devices and on what block.Image.ReaderAt returns. It writes GUID partition
// tables, and moves their backup when a disk grows.
//
// A table may come from a stranger. Reading one takes at most 4 MiB of memory and
// some 130 reads, whatever it contains. Partitions beyond the end of the disk are
// in Table.Outside: each partition of Table.Partitions can be read.
//
// The package does not tell a master boot record from the first sector of a FAT or
// NTFS file system that fills the whole disk: both end with the same two bytes.
package partition
