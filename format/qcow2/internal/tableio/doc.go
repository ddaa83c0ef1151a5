// Package tableio reads and writes tables of image files in large pieces: for what
// works on the file itself, without the cache of an open image.
package tableio

// AlignUp rounds n up to a multiple of unit.
func AlignUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
