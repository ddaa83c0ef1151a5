// Package deflate compresses small buffers as raw DEFLATE (RFC 1951) for readers that
// keep a window of 4 KiB only, as those of compressed qcow2 clusters do.
//
// General compressors for this window either look for matches of four bytes and more,
// which costs a third on tables of numbers, or do not take a window at all. This one
// looks for matches of three bytes at one place, of four and more along a hash chain, and
// takes the next byte's match instead where that is longer. A match is taken only if it
// takes fewer bits than its bytes would, by the entropy of the buffer: in text of few
// letters short matches far away do not. In a window this small all tables stay in the
// processor's first caches.
package deflate
