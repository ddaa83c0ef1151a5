// Package deflate compresses small buffers as raw DEFLATE (RFC 1951) for readers that
// keep a window of 4 KiB only, as those of compressed qcow2 clusters do.
//
// General compressors for this window either look for matches of four bytes and more,
// which costs a third on tables of numbers, or do not take a window at all. This one
// looks for matches as zlib does at its default level: hash chains over three bytes,
// with lazy evaluation. In a window this small chains are short, and so it is fast.
package deflate
