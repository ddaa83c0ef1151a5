// Package sheepdog reads and writes the virtual disks of Sheepdog clusters:
// sheepdog[+tcp]://[host[:port]]/vdi[#snapshot], sheepdog+unix:///vdi?socket=PATH[#snapshot], the
// older spelling sheepdog:[host:port:]vdi[:snapshot], and options (vdi, server.type, …, snap-id,
// tag). A snapshot is named by its number or else by its tag. The protocol is that of package
// sheepdog of this module.
//
// The lock of a VDI is taken to read, too, unless locks are to be left alone (-U); snapshots have none.
// What is written is on the disks of the servers before the write returns, so that a flush
// has nothing to do, and nothing is lost with a connection.
//
// As with QEMU's driver, writing to a snapshot makes it the current VDI, which is lost.
//
// # Locks
//
// node.sizeMu comes before all locks of the client.
package sheepdog
