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
// # Writing
//
// With rw=on what the guest writes goes to a temporary file, the overlay. At a flush and at the
// end the file system is read as the guest sees it, and the folder is brought to that state:
// apply.go tells how. While the guest's file system is inconsistent, nothing in the folder
// changes. Permissions of changed files are kept, and their owners where the process may;
// further attributes and links between files are not.
//
// # Locks
//
// node.mu is held shared by reads, alone by writes and while the folder is changed. fileCache.mu
// is taken below it.
//
// Structures and sections are those of package internal/fat.
package vvfat
