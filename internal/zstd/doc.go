// Package zstd compresses buffers of up to 256 KiB, as compressed clusters of qcow2 are, to frames of
// zstd (RFC 8878). A frame says how long its content is, which is its window too, and has no checksum.
//
// Matches are sought with two tables, of the last place with the same eight bytes and with the same
// five, and at the offset used last; the first match that is found is taken, unless a short one is followed by
// a longer one at the next byte. Literals have a prefix code of their own, or that of the block before, where
// that is smaller; so have the codes of sequences, or the tables that the format defines. Most buffers are one block.
//
// The buffer is copied to a window of a fixed size, where indexes are masked: so the compiler
// knows that they are in bounds, which saves a tenth of the time.
package zstd
