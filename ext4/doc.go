// Package ext4 writes ext4 file systems from trees of package fstree, with the features
// that mke2fs gives today: a journal, extents, indexed directories, checksums of all
// metadata, 64-bit block numbers, flexible block groups, room for the group descriptors
// of a larger file system. It needs no privileges and no other program.
//
// A file system depends on the tree and the options only. Blocks of zeros become holes,
// whether the source has holes there or not. Access control lists, file capabilities,
// hard links, devices, sockets and times from 1901 to 2446 in nanoseconds are kept.
//
// The format is described in Documentation/filesystems/ext4/ of Linux.
package ext4
