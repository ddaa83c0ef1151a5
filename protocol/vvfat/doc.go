// Package vvfat is the protocol of a folder that a guest sees as a disk with a FAT file
// system (QEMU's "vvfat", names "fat:DIR").
//
// # Reading
//
// Opening reads the names, sizes and times of the folder, at most maxEntries of them, and lays
// out a file system: the plan. Boot sector, tables and directories are made from it when they
// are read; contents are read from the files then, of which a few are open at a time. A file
// whose size or time of change is no longer that of the plan is an error with its name.
//
// Nothing outside of the folder is ever read or written: all names are resolved beneath it
// (os.Root), whatever links there are and whoever changes them meanwhile. A symbolic link to a
// file within the folder is shown as the file when the disk is read-only. All other links,
// devices, sockets and pipes, and names that FAT cannot have, are left out with a warning.
//
// # Locks
//
// fileCache.mu is taken below node.mu.
//
// Structures and sections are those of package internal/fat.
package vvfat
