// Package qcow2 implements the qcow2 image format, versions 2 and 3.
//
// The specification is docs/interop/qcow2 of the QEMU project; comments name
// its sections.
//
// # Where things are
//
// Packages that need no open image:
//
//	ondisk             records: header, extensions, table entries, directories
//	internal/tableio   tables of words and clusters, read and written in large pieces
//	internal/layout    new images: create, measure, stream; the options for it
//	internal/check     check and repair, on the file
//	internal/snaptable the snapshot table: read, judged, encoded, searched
//	internal/codec     compressed clusters
//	internal/keys      passphrases and the area of a LUKS header
//
// Parts of an open image, with an interface for what they need of it:
//
//	internal/refcounts counts of clusters: read, changed, searched, written
//	internal/bitmaps   dirty bitmaps: recorded, loaded, stored
//
// This package is the open image, by what the names of its files begin with:
//
//	image, open, header, options, info   what it is, and how it is opened
//	map, read, compress                  where data is, and decoding it
//	write, zero, discard, empty          changes of the mapping
//	l2, writeback                        tables in memory, and their way to the disk
//	allocator                            which clusters are used, and given back when
//	snapshot                             snapshot operations
//	resize, amend, downgrade, encrypt    changes of the whole image
//	driver, check, bitmaps               what others call, and the parts above
//
// The cached L2 slices, the list of pending changes and the batches that are written
// are those of internal/clustertable of the module; its documentation tells what they
// promise.
//
// # Order of writes
//
// At any moment a crash leaves at most leaked clusters. Metadata is changed in
// memory and written in batches by writeback, in this order:
//
//  1. refcount blocks (increments made by allocations), then, behind a barrier,
//     refcount table entries of new blocks;
//  2. a barrier, which also makes durable the guest data and copy-on-write edges
//     that were written before their mapping was committed;
//  3. L2 tables, then, behind a barrier, L1 entries of new L2 tables;
//  4. a barrier, and only then the decrements of what steps 3 dropped.
//
// A dropped cluster becomes free for reuse after step 4 and once the Guard says
// that no reader uses it any more. With lazy refcounts the dirty bit is durable
// before the first change and step 1 is left to Close.
//
// Snapshot operations first bring everything to the file and then work on the
// tables there, in passes over all of them; the order is told with each. What they
// do takes effect with one write to the header. Refcounts and copied flags disagree
// while they work, without damage (a refcount too high, a flag missing), and version 3
// images have the dirty bit set meanwhile.
//
// Dirty bitmaps are marked in memory before the change that they record. On disk
// they are in use meanwhile: a crash leaves them inconsistent. Close stores them.
//
// # Lock order
//
//	resizeMu one Resize or snapshot operation at a time; held across I/O
//	         (that of bm: bitmaps, but not the setting of their bits; held across
//	         I/O by what changes bitmaps themselves)
//	tableMu  L1 entries change, and L2 tables are made, with it held; across the
//	         reading of a table that a snapshot shares, and snapshot operations
//	flushMu  one writeback, growth of the refcount table, repair or snapshot
//	         operation at a time; held across I/O
//	meta     L1, cached L2 slices, pending changes, dropped references; lookups
//	         share it; never held across I/O
//	alloc.mu refcounts and the allocator; held across the loading of a refcount
//	         block and the growth of the refcount table, both rare
//	hdrMu    the header and its writing; the lock of codec, recurseMu: leaves
//
// Locks are taken in this order. meta and alloc.mu are never held together: work
// takes one, gives it back, and takes the other. Whoever changes the L2 entries
// of guest clusters first registers them as pending, which is not a lock: others
// wait on a channel, holding none. Functions given to Guard.Defer take alloc.mu
// only.
//
// # Encryption
//
// What is on the disk may be encrypted, sector by sector, with AES-CBC or as in
// a LUKS volume of version 1 whose header is in clusters of its own (sections
// "Full disk encryption header pointer" and "Data encryption"). Metadata is not.
// Map and Allocate then name a child that decrypts and encrypts; whatever writes
// to the disk goes through it. Compressed clusters would not be encrypted: those of
// other programs are read, none is written.
package qcow2
