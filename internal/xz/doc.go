// Package xz reads streams of the .xz format (version 1.2.1) with a bound on the memory
// that they ask for, and writes streams of one block. The only filter is LZMA2.
//
// The decoder of LZMA2 is that of github.com/ulikunitz/xz/lzma, whose own container takes
// any dictionary size that a stream names. The encoder is this package's: it finds matches
// with binary trees and chooses among them by their prices, as xz does at its usual level,
// and comes to its size but for some 2 %; a buffer may be longer than its dictionary.
package xz
