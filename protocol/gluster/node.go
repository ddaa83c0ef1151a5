package gluster

import (
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native"
)

// node is an open file.
type node struct {
	*native.Disk
	o *openOptions
}

var (
	_ driver.Storage = (*node)(nil)
	_ driver.Named   = (*node)(nil)
)

// Filename implements driver.Named.
func (n *node) Filename() string { return n.o.name() }
