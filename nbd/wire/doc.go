// Package wire holds the messages of the NBD protocol: its numbers, and pure
// functions that encode and decode them. It performs no I/O.
//
// The specification is doc/proto.md of the NetworkBlockDevice project. All
// integers are big endian. Functions named Put encode into a buffer that must be
// long enough and return how much they wrote; functions named Parse never read
// beyond the slice they are given, and check all lengths inside it.
package wire
