// Package file is the protocol for what the operating system calls by a path:
// "file" opens regular files, "host_device" and "host_cdrom" open devices.
//
// # Image locks
//
// On Linux a node takes the locks that running virtual machines take and
// respect: open-file-description locks on single bytes, one for every
// permission that is used (from byte 100) and one for every permission that is
// not shared with others (from byte 200). See LockError.
//
// # Direct I/O
//
// With cache.direct the host page cache is bypassed, and requests of any
// alignment still work: they pass through aligned buffers, and the blocks at
// their edges are read, changed and written under a range lock, so that
// neighbours do not lose what they write meanwhile.
//
// # Folders
//
// A folder that is a disk image (a sparse bundle of macOS, for reading only, or a disk of
// Parallels) is opened by the file in it that describes the image: the name of the node is
// that of this file, and the format finds the others beside it. Any other folder is refused.
//
// # Portability
//
// Reading, writing, resizing and creating work wherever Go does. Holes, direct
// I/O, preallocation by the file system, image locks, discarding and copying by
// reference are there on Linux; holes and cache.direct also on macOS.
package file
