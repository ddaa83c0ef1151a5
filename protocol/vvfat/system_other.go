//go:build !unix

package vvfat

import "os"

// keepOwner does nothing: files have no such owners here.
func keepOwner(*os.Root, string, *os.File) error { return nil }

// syncFolder does nothing: folders cannot be synced here.
func syncFolder(*os.File) error { return nil }
