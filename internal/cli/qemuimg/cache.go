package qemuimg

import (
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
)

// The cache modes that commands use by default.
const (
	cacheWriteback = "writeback"
	cacheUnsafe    = "unsafe"
)

// cacheModes are the names that cacheMode knows.
var cacheModes = []string{"none", "writeback", "writethrough", "directsync", "unsafe"}

// cacheMode reads a cache mode.
func cacheMode(name string) (driver.Cache, bool) { return imageopt.CacheMode(name) }
