// Package iscsi reads and writes logical units of iSCSI targets as disks:
// iscsi://[user[%password]@]host[:port]/target/lun, and the options transport, portal,
// target, lun, user, password-secret, initiator-name, header-digest and timeout of QEMU. The
// protocol itself is in the package iscsi of this module.
//
// Where a target has a volatile cache, what was written since it was last synchronised is
// kept, up to some MiB, and written again on a connection that is made after a loss: the
// target may have been started anew meanwhile. Beyond that the cache is synchronised, while
// other writes go on.
//
// A disk whose size, block size or identity is another one after a loss is given up.
//
// # Locks
//
// journal.mu and statusCache.mu are held for moments only, never during I/O, and never both.
package iscsi
