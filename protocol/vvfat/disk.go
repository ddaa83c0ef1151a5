package vvfat

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"sort"

	"github.com/cowl-disk/cowl/block/driver"
)

// area is a part of the disk, in bytes.
type area struct {
	off, n int64
	kind   areaKind
}

type areaKind uint8

const (
	areaZero areaKind = iota
	areaMBR
	areaHead  // boot sector and what follows it, before the tables
	areaTable // what is used of a table
	areaRoot
	areaData
)

// areaAt returns the part of the disk that off is in.
func (p *plan) areaAt(off int64) area {
	head := p.start
	tables := head + p.TableStart()
	tableSize := p.TableSectors * sector
	used := (int64(p.next)*int64(p.Bits) + 7) / 8
	root, data := head+p.RootStart(), head+p.DataStart()
	rootUsed := int64(len(p.root))
	for _, a := range []area{
		{0, min(sector, head), areaMBR},
		{head, tables - head, areaHead},
		{tables, used, areaTable},
		{tables + tableSize, used, areaTable},
		{root, rootUsed, areaRoot},
		{data, p.Clusters * p.ClusterSize(), areaData},
	} {
		if off < a.off {
			return area{off, a.off - off, areaZero}
		}
		if off < a.off+a.n {
			return a
		}
	}
	return area{off, p.size - off, areaZero}
}

// extent is clusters that hold the bytes of a file.
type extent struct {
	first, count uint32
	off          int64 // in the file, or in a directory that the plan has
	it           *item
	entries      []byte
}

// contents says what is in the clusters now, in the order of clusters.
type contents []extent

// at finds what is in a cluster. If there is nothing, count is how many such clusters there
// are at least, up to limit.
func (c contents) at(cluster, limit uint32) (e *extent, count uint32) {
	i := sort.Search(len(c), func(i int) bool { return c[i].first > cluster })
	if i > 0 && cluster < c[i-1].first+c[i-1].count {
		return &c[i-1], c[i-1].first + c[i-1].count - cluster
	}
	if i < len(c) {
		return nil, c[i].first - cluster
	}
	return nil, limit - cluster
}

// contents returns those of the plan.
func (p *plan) contents() contents {
	c := make(contents, len(p.objects))
	for i, o := range p.objects {
		c[i] = extent{first: o.first, count: o.count, it: o.it, entries: o.entries}
	}
	return c
}

// contents appends where the files below a folder have their bytes.
func (it *item) contents(c contents, clusterSize int64) contents {
	off := int64(0)
	for _, r := range it.runs {
		if off < it.size {
			c = append(c, extent{first: r.First, count: r.Count, off: off, it: it})
		}
		off += int64(r.Count) * clusterSize
	}
	for _, child := range it.children {
		c = child.contents(c, clusterSize)
	}
	return c
}

// sorted brings extents in order. If two have clusters in common, which happens while not all of
// a guest's changes have reached the folder, their bytes are the same there.
func (c contents) sorted(clusterSize int64) contents {
	slices.SortFunc(c, func(a, b extent) int { return cmp.Compare(a.first, b.first) })
	out, end := c[:0], uint32(0)
	for _, e := range c {
		if e.first+e.count <= end {
			continue
		}
		if e.first < end {
			skip := end - e.first
			e.first, e.count, e.off = end, e.count-skip, e.off+int64(skip)*clusterSize
		}
		out, end = append(out, e), e.first+e.count
	}
	return out
}

// fill makes the bytes of the disk from off on, as they were before anything was written. All
// of b is within the disk.
func (n *node) fill(ctx context.Context, b []byte, off int64) error {
	for len(b) > 0 {
		a := n.plan.areaAt(off)
		size := min(int64(len(b)), a.off+a.n-off)
		part, at := b[:size], off-a.off
		clear(part)
		switch a.kind {
		case areaMBR:
			copy(part, n.plan.mbr()[at:])
		case areaHead:
			copy(part, n.plan.Head(n.plan.Clusters-int64(n.plan.next-2), int64(n.plan.next))[at:])
		case areaTable:
			n.plan.table(part, at)
		case areaRoot:
			copy(part, n.plan.root[at:])
		case areaData:
			var err error
			if size, err = n.fillData(ctx, part, at); err != nil {
				return err
			}
		}
		b, off = b[size:], off+size
	}
	return nil
}

// fillData makes bytes from offset at of the clusters on, some of b, which is zero.
func (n *node) fillData(ctx context.Context, b []byte, at int64) (int64, error) {
	size := n.plan.ClusterSize()
	cluster := uint32(at/size) + 2
	e, count := n.contents.at(cluster, uint32(n.plan.Clusters)+2)
	in := at % size
	length := min(int64(len(b)), int64(count)*size-in)
	if e == nil {
		return length, nil
	}
	off := e.off + int64(cluster-e.first)*size + in
	if e.entries != nil {
		copy(b[:length], e.entries[min(off, int64(len(e.entries))):])
		return length, nil
	}
	if off < e.it.size {
		return length, n.files.read(ctx, e.it, b[:min(length, e.it.size-off)], off)
	}
	return length, nil
}

// table makes bytes of a table from offset at on; all of b is in the part that is used.
func (p *plan) table(b []byte, at int64) {
	// Whole entries, from an even one on: those of FAT12 have a byte in common.
	bits := int64(p.Bits)
	first := at * 8 / bits &^ 1
	last := min(((at+int64(len(b)))*8+bits-1)/bits, int64(p.next))
	whole := make([]byte, ((last-first)*bits+7)/8+4)
	i := sort.Search(len(p.objects), func(i int) bool { return int64(p.objects[i].first)+int64(p.objects[i].count) > first })
	for c := first; c < last; c++ {
		value := p.End()
		switch {
		case c < 2:
			value = p.First()[c]
		case c >= int64(p.objects[i].first)+int64(p.objects[i].count)-1: // the last of its object
			i++
		default:
			value = uint32(c + 1)
		}
		p.PutEntry(whole, c-first, value)
	}
	copy(b, whole[at-first*bits/8:])
}

// mbr is the first sector of a disk with a partition, which is its only one.
func (p *plan) mbr() []byte {
	b := make([]byte, sector)
	le := binary.LittleEndian
	le.PutUint32(b[440:], diskSignature)
	e := b[446:]
	e[0] = 0x80 // boots
	inside := p.chs(e[1:], partitionStart)
	inside = p.chs(e[5:], p.sectors()-1) && inside
	switch {
	case p.Bits == 12:
		e[4] = 0x01
	case p.Bits == 16 && inside:
		e[4] = 0x06
	case p.Bits == 16:
		e[4] = 0x0e
	case inside:
		e[4] = 0x0b
	default:
		e[4] = 0x0c
	}
	le.PutUint32(e[8:], partitionStart)
	le.PutUint32(e[12:], uint32(p.Sectors))
	b[510], b[511] = 0x55, 0xaa
	return b
}

// chs writes the number of a sector as cylinder, head and sector, and says whether it has one.
func (p *plan) chs(b []byte, n int64) bool {
	cylinder, head, s := n/(p.heads*p.track), n/p.track%p.heads, n%p.track+1
	if cylinder > 1023 {
		b[0], b[1], b[2] = 0xfe, 0xff, 0xff
		return false
	}
	b[0], b[1], b[2] = byte(head), byte(s)|byte(cylinder>>8<<6), byte(cylinder)
	return true
}

// Map implements driver.Storage.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	if err := ctx.Err(); err != nil {
		return driver.Extent{}, err
	}
	if off >= n.plan.size {
		return driver.Extent{}, nil
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.extent(off, min(length, n.plan.size-off)), nil
}

// extent says what is at an offset within the disk. Called with mu.
func (n *node) extent(off, length int64) driver.Extent {
	if n.overlay != nil {
		written, count := n.overlay.at(off, length)
		if length = count; written {
			return driver.Extent{Length: length, Kind: driver.ExtentData}
		}
	}
	kind, count := n.plan.kindAt(off, n.contents)
	if kind == areaZero {
		return driver.Extent{Length: min(length, count), Kind: driver.ExtentZero}
	}
	for count < length { // neighbours are one extent
		more, m := n.plan.kindAt(off+count, n.contents)
		if more == areaZero {
			break
		}
		count += m
	}
	return driver.Extent{Length: min(length, count), Kind: driver.ExtentData}
}

// kindAt says what is at an offset, and how much of it.
func (p *plan) kindAt(off int64, c contents) (areaKind, int64) {
	a := p.areaAt(off)
	left := a.off + a.n - off
	if a.kind != areaData {
		return a.kind, left
	}
	at := off - a.off
	e, count := c.at(uint32(at/p.ClusterSize())+2, uint32(p.Clusters)+2)
	left = min(left, int64(count)*p.ClusterSize()-at%p.ClusterSize())
	if e == nil {
		return areaZero, left
	}
	return areaData, left
}
