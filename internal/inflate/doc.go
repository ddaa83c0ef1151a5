// Package inflate decodes raw DEFLATE (RFC 1951) and zlib streams (RFC 1950) that are in
// memory as a whole, into memory of a known length: clusters, grains and chunks of
// images. Without the need to stop anywhere it is about twice as fast as readers that
// take their input in pieces.
//
// A table entry tells in one look-up what a code is, and how many bits it takes with
// its extra bits. While there is input and output left in plenty, a literal or a match
// needs no further checks; the rest is decoded one symbol at a time.
package inflate
