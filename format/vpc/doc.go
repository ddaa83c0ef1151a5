// Package vpc implements virtual hard disks (VHD) of Virtual PC, Hyper-V, Azure and
// XenServer.
//
// The specification is Microsoft's "Virtual Hard Disk Image Format Specification",
// version 1.0; comments name its sections. All numbers are big-endian. A fixed disk is
// the disk itself with a footer of 512 bytes behind it. A dynamic disk begins with a
// copy of the footer and a header that names a table (BAT) with the place of each
// block; a block is a bitmap of its sectors and the data. A differencing disk is the
// same on top of a parent: the bitmap says which sectors it has itself.
//
// Either copy of the footer will do, and footers of 511 bytes are read, which early
// versions of Virtual PC wrote. A block of which a differencing disk has a part is
// written whole, to a new place, when it is first written to.
//
// The data of new blocks begins at multiples of 4 KiB. The footer at the end moves with
// every new block: it is durable at its new place before the table names the block.
//
// A parent is looked for where the child says it is relative to itself, or under its
// last name beside the child, and must have the identifier that the child names.
//
// The lock order is that of package blockmap; image.mu, for the footer, is a leaf.
package vpc
