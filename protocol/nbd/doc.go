// Package nbd reads and writes the exports of NBD servers as disks: nbd://host/export,
// nbd+unix:///export?socket=path, the same with nbds, the older spelling
// nbd:host:port:exportname=name, and options (server.type, export, …).
//
// Several connections are used where the server says that they act as one. What the
// server says of its block status (base:allocation) is what Map answers. With
// reconnect-delay, requests survive the loss of the connection: they wait for a new
// one and are made again. A server that comes back must offer an export of the same
// size. What was written and not flushed before is as safe as that server made it.
//
// Lock order: node.mu is held for moments only, never during I/O.
package nbd
