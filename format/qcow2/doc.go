// Package qcow2 implements the qcow2 image format, versions 2 and 3.
//
// The specification is docs/interop/qcow2 of the QEMU project; comments name
// its sections. On-disk records are encoded and decoded by package ondisk.
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
// # Lock order
//
//	flushMu  one writeback, resize or repair at a time; held across I/O
//	meta     L1, cached L2 slices, pending allocations, dropped clusters;
//	         readers share it, it is never held across I/O
//	alloc.mu refcounts and the allocator; held across the rare loading of a
//	         refcount block, never while meta is wanted
//
// Locks are taken in this order and alloc.mu and meta are never held together,
// except that meta may be held while alloc.mu's lists are appended to by way of
// no call at all: each part of the work takes one lock, gives it back, and takes
// the next. Functions that Guard.Defer runs take alloc.mu only.
//
// # Not supported
//
// Encrypted images are opened for looking at metadata only. Bitmaps are kept
// but not maintained: the first change to an image clears their autoclear bit,
// as the specification asks of a program that does not know them.
package qcow2
