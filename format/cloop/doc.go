// Package cloop reads compressed loop images, as KNOPPIX had them (cloop.h of the
// driver cloop, version 2).
//
// A file begins with a shell script of 128 bytes, the size of a block and the number n
// of blocks (32 bits each, big endian), and n+1 offsets in the file (64 bits, big
// endian): block i fills the space between the offsets i and i+1, as a zlib stream of exactly one
// block. The disk is n blocks long.
//
// The offsets stay in the file: a page of them is read when it is needed, and package
// chunks does the rest. There is no writing.
package cloop
