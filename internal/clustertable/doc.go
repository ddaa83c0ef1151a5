// Package clustertable keeps the mapping tables of image formats: what a driver
// needs between a table on disk (L2 table, block allocation table, grain table,
// refcount blocks) and the requests that look at it and change it.
//
//   - Cache holds tables in slices of equal size under a bound in bytes, so that the
//     tables of a disk of many tebibytes need not fit into memory. A flat table and
//     the tables of a tree are the same to it: a slice has an offset in the file.
//   - Root is a table that names other tables and is in memory as a whole.
//   - Changes lists the ranges of the disk that are being changed. Whoever wants to
//     change one of them waits.
//   - Batch is a copy of what changed, to be written to the file.
//
// # Locks
//
// All of a driver's tables are under one lock, which the driver owns and gives to
// each part: a look-up sees the table that names a table, the table and the pending
// changes at one moment. Methods that are documented with "the lock is held" expect
// it, shared at least unless they say exclusively. The others take it themselves
// and must not be called with it. It is never held across I/O, except by users of
// Cache.Fetch.
//
// One write-back at a time is under way: the driver has a lock for it, outside the
// lock of the tables (Config.WriteLock).
//
// # A write
//
// A write to a unit (cluster, block, grain) that has room is written in place. Else:
//
//  1. Under the lock: if Changes.Conflict reports a change, wait for its end and
//     look again. If none, Changes.Add the unit.
//  2. Without the lock: find room, count it, write the data.
//  3. Cache.Edit the entry, then Changes.Remove. Readers see the new place from here
//     on; until then they see what was there before.
//
// If step 2 fails, give the room back and remove the change.
//
// # Order on disk
//
// An entry must reach the disk after what it refers to, whatever the moment of a
// crash. A write-back takes the batches of all levels under one hold of the lock,
// and then, without it:
//
//  1. brings what counts the room to the disk (refcounts, a bitmap, the length of
//     the file), if the format counts it;
//  2. flushes: this also covers the data, which was written before its entry was
//     edited, and so before the batches were taken;
//  3. calls WriteInOrder with the batches, tables before the tables that name them;
//  4. flushes, if it was asked for durability, or room was given up: only now may
//     room be used again that an entry referred to.
//
// At the end, under the lock, Batch.Done is called for each batch that was taken.
// After an error its slices are dirty again, so that the next write-back repeats
// all of it. Entries that change while a batch is written are not in it: they make
// their slice dirty once more.
//
// # Room on disk
//
// A write is acknowledged when its entry is in memory. The entry must not need room
// on a full file system later: slices that may lie in a hole of the file have zeroes
// written to them before their first change, by Edit or CoverFetched.
package clustertable
