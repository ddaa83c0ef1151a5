// Package vhdx implements virtual hard disks of the second generation (VHDX) of Hyper-V.
//
// The specification is Microsoft's [MS-VHDX]; comments name its sections. All numbers are
// little-endian. The file begins with a signature, two headers of which the one with the
// higher number counts, and two copies of a table of regions (2.2). The regions are a table
// of blocks, the BAT (2.5), and items of metadata (2.6). A log holds changes of both, and is
// replayed when the file is opened (2.3).
//
// A block is absent, zeroes or data. In a differencing disk a bitmap can say which sectors
// of a block are there, and the parent has the others. Such a block is written whole, to a
// new place, when it is first written to.
//
// # Opening
//
// An image that was not closed in order has a log. Opened for writing, the log is written to
// where it belongs; opened for reading, it is laid over the file in memory.
//
// # Order on disk
//
// All changes of the BAT and of metadata go through the log. An entry replaces the one
// before: its tail is itself, and it is written once what the one before it said is durable
// in its place. An entry does not touch the room of the one before, so that there is always
// a valid one from the first to Close.
//
// A parent is looked for where the child says it is relative to itself, or under its last
// name beside the child, and must have the contents that the child names.
//
// The lock order is that of package blockmap; image.mu, for headers and the log, comes after
// it.
package vhdx
