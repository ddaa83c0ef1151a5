// Package null is the protocol without content: what is written is forgotten.
// It has two names, "null-co" and "null-aio", which behave alike here.
//
// With read-zeroes=on every read returns zeroes and the node reports itself as
// one extent of zeroes. Without it the bytes read are unspecified; this package
// never shows what a buffer held before, so they are zeroes too, but the node
// reports itself as data.
package null
