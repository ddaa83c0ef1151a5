// Package squashfs reads and writes images of squashfs 4.0, the compressed read-only file
// system of Linux, as trees of package fstree.
//
// Write gives the same bytes for the same tree and options, whatever the number of
// processors. It compresses in parallel, finds files of equal content, packs small files
// into fragments and leaves holes out. It keeps hard links, devices, any name, times from
// 1970 to 2106 in seconds, and extended attributes of the namespaces user, trusted and
// security; the format has no others, so that access control lists are lost. Report.Lost
// tells what was.
//
// Images may come from a stranger: Open and what it returns check every position and size
// before memory is reserved for it, and fstree.Limits bound the tree. Compression with LZO
// and the branch filters of xz are not supported.
//
// The format is described by the kernel's fs/squashfs/squashfs_fs.h and
// Documentation/filesystems/squashfs.rst.
package squashfs
