// Package asif reads the sparse images of macOS 26 (Apple Sparse Image Format).
//
// Apple does not document the format; github.com/huven/asif-format does, with header
// version 1. All numbers are big-endian. The file is made of chunks. Of two directories the
// one with the higher sequence number counts; it names tables, each in a chunk. A table is
// made of groups: entries for N data chunks, and one for a chunk with two bits for each
// sector of them. An entry says whether a chunk is absent, there, or there in part.
//
// Images are read only. What no image was seen to have is refused, not guessed.
//
// Locks: that of the cache of tables, which is never held across I/O.
package asif
