// Package bitmaps keeps the dirty bitmaps of a qcow2 image (section "Bitmaps
// extension").
//
// Bitmaps are changed in memory only. On disk an enabled bitmap is flagged in use
// before the first change of the disk, and every bitmap before its own first
// change: a program that finds the flag knows that the bitmap is inconsistent. Close stores
// what changed to new clusters, lets the header name a new directory, in which
// nothing is in use, and frees the old clusters; where only flags changed, they
// are written over those there are: each is 32 bits in one sector. See Store.
//
// Set.mu guards everything but the setting of bits, which shares it. It is held
// across I/O by what changes bitmaps themselves, and outside all locks that Host
// takes.
package bitmaps
