//go:build !linux

package main

// warm does nothing where it is not known to matter.
func warm(int64) error { return nil }

// highWater is not known here.
func highWater(int) int64 { return 0 }
