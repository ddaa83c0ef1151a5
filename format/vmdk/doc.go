// Package vmdk is the format of VMware's disks (VMware, "Virtual Disk Format 5.0").
//
// A disk is a row of extents that a descriptor, a text, lists: flat files, files in one
// of three sparse formats, and ranges of zeroes. The descriptor is a file of its own, or
// is embedded in the one extent there is. Its content ID (CID) changes at the first
// write after each opening, so that an overlay can tell whether its parent is still what
// it was made on.
//
//   - Hosted sparse extents ("KDMV") have grains that a grain directory and grain tables
//     locate; most have the tables twice. Package blockmap does the mapping.
//
//   - Stream-optimized ones have compressed grains; package chunks reads them. They are
//     written from the start to the end, once.
//
//   - Sparse extents of ESX ("COWD" and SE sparse) are read only. SE sparse is not
//     documented.
//
//   - Raw device maps and disks that are a device name it, and the gate decides about the name.
//
// Images without a parent can be made larger; none can be made smaller.
//
// Not supported: the list of changed blocks of version 3, replay of the journal of SE sparse
// extents.
//
// # Lock order
//
// node.mu is not held while any other lock is taken, but across the I/O of the
// descriptor.
package vmdk
