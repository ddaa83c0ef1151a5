// Package nfs reads and writes files of NFS servers as disks:
// nfs://host[:port]/directory/file[?uid=…&gid=…&version=…], and options (server.type,
// server.host, path, user, …). The directory is mounted in version 3 and looked up in
// version 4; the protocol is that of package nfs of this module.
//
// Where the version tells of holes (4.2), they are not read, and ranges of zeroes and what
// is discarded take no room.
//
// # Locks
//
// node.sizeMu before node.mu; node.mu is held for moments only, never during I/O. The locks of
// the cache are taken last.
package nfs
