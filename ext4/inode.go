package ext4

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cowl-disk/cowl/fstree"
)

// Flags of inodes.
const (
	flagIndexed = 0x1000
	flagExtents = 0x80000
)

var modes = map[fstree.Kind]uint16{fstree.FIFO: 0o010000, fstree.CharDevice: 0o020000, fstree.Dir: 0o040000, fstree.BlockDevice: 0o060000,
	fstree.File: 0o100000, fstree.Symlink: 0o120000, fstree.Socket: 0o140000}

// fileTypes are the types in directory entries.
var fileTypes = map[fstree.Kind]byte{fstree.File: 1, fstree.Dir: 2, fstree.CharDevice: 3, fstree.BlockDevice: 4, fstree.FIFO: 5, fstree.Socket: 6, fstree.Symlink: 7}

// inode is an inode to be written.
type inode struct {
	number   int64
	mode     uint16
	uid, gid uint32
	links    int64
	size     int64
	blocks   int64 // of blockSize, tables of extents and attributes included
	flags    uint32
	time     time.Time
	block    [60]byte
	acl      int64 // block of attributes
	inline   []byte
}

// seedOf is what the checksums of an inode and of its blocks begin with.
func (w *writer) seedOf(number int64) uint32 {
	le := binary.LittleEndian
	return crc32c(w.seed, le.AppendUint32(le.AppendUint32(nil, uint32(number)), 0)) // generation 0
}

// encode is the record of an inode.
func (w *writer) encode(n *inode) []byte {
	le := binary.LittleEndian
	b := make([]byte, inodeSize)
	seconds, extra := w.timestamp(n.time)
	le.PutUint16(b, n.mode)
	le.PutUint16(b[0x02:], uint16(n.uid))
	le.PutUint32(b[0x04:], uint32(n.size))
	for _, at := range []int{0x08, 0x0c, 0x10, 0x90} { // access, change of the inode, of the data, birth
		le.PutUint32(b[at:], seconds)
	}
	for _, at := range []int{0x84, 0x88, 0x8c, 0x94} {
		le.PutUint32(b[at:], extra)
	}
	le.PutUint16(b[0x18:], uint16(n.gid))
	links := n.links
	if links > maxLinks && n.mode&0o170000 == modes[fstree.Dir] {
		links = 1 // too many to be counted
	}
	le.PutUint16(b[0x1a:], uint16(links))
	sectors := n.blocks * (blockSize / 512)
	le.PutUint32(b[0x1c:], uint32(sectors))
	le.PutUint16(b[0x74:], uint16(sectors>>32))
	le.PutUint32(b[0x20:], n.flags)
	copy(b[0x28:0x64], n.block[:])
	le.PutUint32(b[0x68:], uint32(n.acl))
	le.PutUint16(b[0x76:], uint16(n.acl>>32))
	le.PutUint32(b[0x6c:], uint32(n.size>>32))
	le.PutUint16(b[0x78:], uint16(n.uid>>16))
	le.PutUint16(b[0x7a:], uint16(n.gid>>16))
	le.PutUint16(b[0x80:], extraSize)
	copy(b[128+extraSize:], n.inline)
	sum := crc32c(w.seedOf(n.number), b)
	le.PutUint16(b[0x7c:], uint16(sum))
	le.PutUint16(b[0x82:], uint16(sum>>16))
	return b
}

// The times that 34 bits of seconds hold.
const minTime, maxTime = -1 << 31, 1<<34 - 1<<31 - 1

// timestamp splits a time into its 32 lower bits of seconds and the rest.
func (w *writer) timestamp(t time.Time) (seconds, extra uint32) {
	s := t.Unix()
	if s < minTime || s > maxTime {
		w.lose("times before 1901 and after 2446, which are moved there")
		s = min(max(s, minTime), maxTime)
	}
	return uint32(s), uint32((s-int64(int32(s)))>>32&3) | uint32(t.Nanosecond())<<2
}

// extent is a piece of a file: n blocks from block logical of the file on.
type extent struct{ logical, at, n int64 }

const (
	maxExtent     = 32768
	extentMagic   = 0xf30a
	extentEntry   = 12
	inodeExtents  = 4
	extentsInLeaf = (blockSize - extentEntry) / extentEntry
)

// addExtent appends a piece, to the last one where it goes on.
func addExtent(list []extent, e extent) []extent {
	for e.n > 0 {
		if last := len(list) - 1; last >= 0 {
			l := &list[last]
			if more := min(e.n, maxExtent-l.n); l.logical+l.n == e.logical && l.at+l.n == e.at && more > 0 {
				l.n += more
				e = extent{e.logical + more, e.at + more, e.n - more}
				continue
			}
		}
		n := min(e.n, maxExtent)
		list = append(list, extent{e.logical, e.at, n})
		e = extent{e.logical + n, e.at + n, e.n - n}
	}
	return list
}

// setExtents gives an inode its extents; where they do not fit in it, blocks for a tree.
func (w *writer) setExtents(n *inode, list []extent) error {
	le := binary.LittleEndian
	n.flags |= flagExtents
	for _, e := range list {
		n.blocks += e.n
	}
	entries := make([][extentEntry]byte, len(list))
	starts := make([]int64, len(list))
	for i, e := range list {
		le.PutUint32(entries[i][:], uint32(e.logical))
		le.PutUint16(entries[i][4:], uint16(e.n))
		le.PutUint16(entries[i][6:], uint16(e.at>>32))
		le.PutUint32(entries[i][8:], uint32(e.at))
		starts[i] = e.logical
	}
	depth := uint16(0)
	header := func(count, most int) []byte {
		h := le.AppendUint16(nil, extentMagic)
		h = le.AppendUint16(h, uint16(count))
		h = le.AppendUint16(h, uint16(most))
		h = le.AppendUint16(h, depth)
		return le.AppendUint32(h, 0)
	}
	for ; len(entries) > inodeExtents; depth++ {
		var upper [][extentEntry]byte
		var upperStarts []int64
		for len(entries) > 0 {
			count := min(len(entries), extentsInLeaf)
			b := header(count, extentsInLeaf)
			for _, e := range entries[:count] {
				b = append(b, e[:]...)
			}
			b = append(b, make([]byte, blockSize-len(b))...)
			le.PutUint32(b[blockSize-4:], crc32c(w.seedOf(n.number), b[:blockSize-4]))
			r, err := w.layout.allocate(1)
			if err != nil {
				return err
			}
			if err := w.put("extents", b, r.at*blockSize); err != nil {
				return err
			}
			n.blocks++
			var e [extentEntry]byte
			le.PutUint32(e[:], uint32(starts[0]))
			le.PutUint32(e[4:], uint32(r.at))
			le.PutUint16(e[8:], uint16(r.at>>32))
			upper, upperStarts = append(upper, e), append(upperStarts, starts[0])
			entries, starts = entries[count:], starts[count:]
		}
		entries, starts = upper, upperStarts
	}
	b := header(len(entries), inodeExtents)
	for _, e := range entries {
		b = append(b, e[:]...)
	}
	copy(n.block[:], b)
	return nil
}

// setDevice puts device numbers where those of a block would be.
func (n *inode) setDevice(major, minor uint32) error {
	le := binary.LittleEndian
	switch {
	case major < 256 && minor < 256:
		le.PutUint32(n.block[:], major<<8|minor)
	case major < 1<<12 && minor < 1<<20:
		le.PutUint32(n.block[4:], minor&0xff|major<<8|minor>>8<<20)
	default:
		return fmt.Errorf("the device numbers %d:%d do not fit in 12 and 20 bits", major, minor)
	}
	return nil
}
