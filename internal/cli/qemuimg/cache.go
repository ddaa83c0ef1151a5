package qemuimg

import "github.com/cowl-disk/cowl/block/driver"

// The cache modes that commands use by default.
const (
	cacheWriteback = "writeback"
	cacheUnsafe    = "unsafe"
)

// cacheMode reads a cache mode.
func cacheMode(name string) (driver.Cache, bool) {
	switch name {
	case "none", "off":
		return driver.Cache{Direct: true}, true
	case "directsync":
		return driver.Cache{Direct: true, WriteThrough: true}, true
	case cacheWriteback:
		return driver.Cache{}, true
	case "writethrough":
		return driver.Cache{WriteThrough: true}, true
	case cacheUnsafe:
		return driver.Cache{NoFlush: true}, true
	}
	return driver.Cache{}, false
}
