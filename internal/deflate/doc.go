// Package deflate compresses small buffers as raw DEFLATE (RFC 1951) for the compressed
// clusters of qcow and qcow2.
//
// Most data is parsed by a quick search: two tables, of the last two places with the same
// seven bytes and of the last one with the same four. Data with few such matches, as tables of numbers and
// text of few letters, is parsed again with care: there matches of three bytes count, hash
// chains are followed, and a match is taken only if it takes fewer bits than its bytes
// would, by the entropy of the buffer. Small buffers are always parsed with care.
//
// # Distances
//
// The format of the images names RFC 1951 and no window, whose matches reach back 32 KiB.
// QEMU's encoder keeps a window of 4 KiB, and readers declare that one to their decoders.
// It makes no difference to those that decode a cluster at once, as QEMU does, since a
// decoder finds in its output what is not in its window. Some readers have a decoder fill
// buffers of 32 KiB or more one after the other. So that these read what is made here,
// matches reach back at most to [window] bytes before the piece of 32 KiB that they are in.
package deflate
