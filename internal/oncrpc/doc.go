// Package oncrpc is the client's side of Sun's remote procedure calls (RFC 5531) over TCP,
// with record marking, and of the external data representation (RFC 4506) that they are
// made of; and of the port mapper (RFC 1833, version 2), which tells the ports of services.
//
// Many calls are under way on a connection at once. What a server sends is bounded: by the
// longest answer that a call allows, and no more than that is ever held.
//
// # Locks
//
// Conn.mu is held for moments only, never during I/O.
package oncrpc
