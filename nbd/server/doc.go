// Package server exports devices to NBD clients: newstyle negotiation with TLS,
// simple, structured and extended replies, several exports and many clients.
//
// # How a connection works
//
// One goroutine, the leader, reads requests from a large buffer: one system call
// fetches as many as the client has sent. While the device answers at once (from
// memory), the leader executes requests itself and gathers their replies until no
// complete request is left in its buffer; then one system call sends them all. When
// the device turns out to be slow, the leader hands requests to workers, so that
// they run in parallel and are answered in the order in which they are done. The
// worker that has a reply writes it, with all replies that have come up meanwhile.
// When a request that the leader executes takes long all the same, another
// goroutine takes its place.
//
// Large reads of a device whose bytes are in a file (FileRanger) are sent from the
// page cache to Unix sockets, without a buffer, where the system can do that.
//
// # What a client can cost
//
// Before a client has chosen an export: a few KiB and Config.HandshakeTimeout.
// After it: the buffers of one connection, about 2.5 MiB, whatever requests it
// sends. Payloads that are larger than a piece (512 KiB) pass through in pieces.
// Replies that must be contiguous and are larger are read as a whole if the
// server's shared room (16 MiB) allows; else piece by piece, and then a device
// that fails in the middle costs the connection.
//
// # Lock order
//
// Server.mu before conn.mu; neither is held across I/O.
package server
