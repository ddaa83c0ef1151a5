// Package xz reads streams of the .xz format (version 1.2.1) with a bound on the memory
// that they ask for, and writes streams of one block. The only filter is LZMA2.
//
// The LZMA2 coder is that of github.com/ulikunitz/xz/lzma. Its own container takes any
// dictionary size that a stream names.
package xz
