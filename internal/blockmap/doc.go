// Package blockmap serves disks made of units of equal size (blocks, clusters,
// grains) that a table locates: what VDI, VHD, VHDX, Parallels, QED, qcow and VMDK
// have in common. A format package keeps its header, its words and its quirks.
//
// # Use
//
// Open reads the header, describes the image in a Layout, and makes a Disk with New,
// which it embeds in its node: Map, Allocate, WriteZeroes, Discard, Flush, Close and
// Size are then those of the driver interfaces. The node adds ReadEncoded, Info and
// what else the format has.
//
//   - A flat table has one entry for each unit (Layout.Table, Entries, Width). With
//     Layout.Dir there are two levels: a directory names tables, which are made when
//     they are needed, zeroed. Table entries of zero must then be Absent.
//   - Decode and Encode turn an entry into an Entry and back. They are pure and see
//     every value: what cannot be right is Bad, which fails reads of that unit.
//   - Units lie anywhere from Layout.First on, and new ones at multiples of Align
//     from there, behind all that any table names and that is Reserved; or where Discard
//     gave units up, if FreeUnits says so.
//   - Hooks are called where formats differ: before the first write, before entries
//     are written (a count of blocks, a footer), for each new unit, when closing.
//   - Entries visits all entries, Check finds out what is wrong with them.
//   - ErrUnsupported of WriteZeroes has the block layer write zeroes as data.
//
// Tables are kept in slices under a bound of 2 MiB, so that an image of many
// tebibytes needs no more memory than one of a few.
//
// # Order on disk
//
// An entry is changed in memory once the data of its unit is in the file. Tables are
// written when Flush asks for it or when half of the cache is dirty: first what
// Hooks.Linking writes, a flush, the tables, a flush, the directory. A crash leaves
// units that no entry names, at most. What an entry no longer names is used again
// once that is durable and no reader is left (driver.Guard).
//
// # Lock order
//
//	beginMu  the first write; held across FirstWrite
//	tableMu  one table is made at a time; held across I/O
//	flushMu  one write-back, scan or check at a time; held across I/O
//	mu       tables in memory, pending changes, drops; never held across I/O
//	room.mu  free room; held across Hooks.Linking
//
// A unit that is being changed is listed (clustertable.Changes); others wait for it
// without a lock.
package blockmap
