package fstree

import (
	"errors"
	"fmt"
)

// ErrLimit: a source is larger than the limits allow.
var ErrLimit = errors.New("over the limit")

// ErrHostile: a source has an entry that would lead out of the tree or that no file
// system can hold.
var ErrHostile = errors.New("unsafe entry")

// Limits bounds what one source may cost. A field of 0 has the value that its comment
// names.
type Limits struct {
	// Memory is for the tree: paths, targets, attributes and some 200 bytes a node. 1 GiB.
	Memory int64
	// Bytes is the sum of the sizes of all files, holes included. 1 TiB.
	Bytes int64
	// Spool is how much may be written to the temporary file. 256 GiB.
	Spool int64
	// Depth is how deep directories may be nested. 1024.
	Depth int
}

// nodeCost is about what a node and its entry take.
const nodeCost = 200

// Meter counts what a source has used of its limits.
type Meter struct {
	limits               Limits
	memory, bytes, spool int64
}

// NewMeter returns a meter for one source.
func NewMeter(l Limits) *Meter {
	def := func(v *int64, n int64) {
		if *v == 0 {
			*v = n
		}
	}
	def(&l.Memory, 1<<30)
	def(&l.Bytes, 1<<40)
	def(&l.Spool, 256<<30)
	if l.Depth == 0 {
		l.Depth = 1024
	}
	return &Meter{limits: l}
}

// Node counts a node whose path in the tree has that many bytes. Those who write trees
// keep the paths: deep directories would make them longer than all names together.
func (m *Meter) Node(path int, n *Node) error {
	cost := int64(nodeCost + path + len(n.Target))
	for _, x := range n.Xattrs {
		cost += int64(40 + len(x.Name) + len(x.Value))
	}
	return m.more(cost)
}

func (m *Meter) more(cost int64) error {
	if m.memory += cost; m.memory > m.limits.Memory {
		return fmt.Errorf("the tree takes more than %d bytes of memory: %w", m.limits.Memory, ErrLimit)
	}
	return nil
}

// File counts the size of a file.
func (m *Meter) File(size int64) error {
	if size < 0 || size > m.limits.Bytes-m.bytes {
		return fmt.Errorf("the files hold more than %d bytes: %w", m.limits.Bytes, ErrLimit)
	}
	m.bytes += size
	return nil
}

// spooled counts bytes of the temporary file.
func (m *Meter) spooled(n int64) error {
	if m.spool += n; m.spool > m.limits.Spool {
		return fmt.Errorf("unpacked, the archive takes more than %d bytes: %w", m.limits.Spool, ErrLimit)
	}
	return nil
}

// Depth fails for directories that are nested deeper than the limit; the root has depth 0.
func (m *Meter) Depth(depth int) error {
	if depth > m.limits.Depth {
		return fmt.Errorf("directories are nested more than %d deep: %w", m.limits.Depth, ErrLimit)
	}
	return nil
}
