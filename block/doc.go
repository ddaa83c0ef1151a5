// Package block is the block layer: it opens trees of nodes and does the I/O
// on them, once, for every format.
//
// A Registry holds the drivers. Open opens an image: it finds the protocol by
// the file name or the options, probes the format where none is given, opens
// the "file" child, the format on top of it, and the chain of backing files.
// Create makes an image. An Image is an open node with its children; it reads
// through the mapping that the format answers (Map), follows backing chains,
// asks for room to write (Allocate), fills copy-on-write edges and commits the
// metadata, falls back where a driver cannot discard or write zeroes, and checks
// bounds.
//
// An Image may be used by several goroutines at once, except that Close comes
// last. Every method takes a context; cancelling it makes the call return early
// with the context's error and leaves the image consistent.
//
// # Lock order
//
// The block layer holds no lock while it calls a driver, except the one that
// serialises drivers which ask for it (driver.Desc.Serial). driver.Guard is
// entered by every request before it asks for a mapping and left after its I/O;
// drivers defer the freeing of host room behind it.
package block
