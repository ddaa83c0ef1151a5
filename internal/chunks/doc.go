// Package chunks reads disks that are stored in chunks which are compressed
// independently of each other. It is what formats of such disks have in common: a
// format says where the chunks are and how one is decoded; this package reads and
// decodes them, each once for several readers, keeps the last ones under a bound in
// bytes, and divides a large read among the processors.
//
// The length of a decoded chunk is known before it is decoded (Chunk.Length), and a
// decoder is given a buffer of that length: a chunk that would become longer is an
// error, not memory. What is held at a time is counted in the budget of the image.
//
// # Locks
//
// Reader has one lock, which is not held across I/O or decoding.
package chunks
