package ext4

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cowl-disk/cowl/fstree"
)

const (
	dirTail    = 12 // bytes of a directory block's checksum
	entryHead  = 8
	indexRoot  = 32                                      // offset of the counts in an index's root
	indexNode  = 8                                       // and in its other nodes
	rootLimit  = (blockSize - indexRoot - entryHead) / 8 // entries, the counts among them
	nodeLimit  = (blockSize - indexNode - entryHead) / 8
	dirTailTag = 0xde
)

// dirEntry is a name in a directory.
type dirEntry struct {
	inode int64
	kind  byte
	name  string
	hash  uint32
}

func (e dirEntry) size() int { return (entryHead + len(e.name) + 3) &^ 3 }

// dirBlock packs entries into a block with a checksum. The last one takes the room that
// is left.
func dirBlock(seed uint32, entries []dirEntry) []byte {
	le := binary.LittleEndian
	b := make([]byte, blockSize)
	at := 0
	for i, e := range entries {
		size := e.size()
		if i == len(entries)-1 {
			size = blockSize - dirTail - at
		}
		putEntry(b[at:], e, size)
		at += size
	}
	if len(entries) == 0 {
		le.PutUint16(b[4:], blockSize-dirTail)
	}
	tail := b[blockSize-dirTail:]
	le.PutUint16(tail[4:], dirTail)
	tail[7] = dirTailTag
	le.PutUint32(tail[8:], crc32c(seed, b[:blockSize-dirTail]))
	return b
}

func putEntry(b []byte, e dirEntry, size int) {
	le := binary.LittleEndian
	le.PutUint32(b, uint32(e.inode))
	le.PutUint16(b[4:], uint16(size))
	b[6], b[7] = byte(len(e.name)), e.kind
	copy(b[entryHead:], e.name)
}

// dirBlocks makes the blocks of a directory: one with all entries, or an index by the
// hashes of the names. indexed tells which.
func (w *writer) dirBlocks(number, parent int64, list []dirEntry) (blocks [][]byte, indexed bool, err error) {
	seed := w.seedOf(number)
	dots := []dirEntry{{inode: number, kind: fileTypes[fstree.Dir], name: "."}, {inode: parent, kind: fileTypes[fstree.Dir], name: ".."}}
	total := dots[0].size() + dots[1].size()
	for _, e := range list {
		total += e.size()
	}
	if total <= blockSize-dirTail {
		return [][]byte{dirBlock(seed, append(dots, list...))}, false, nil
	}
	for i := range list {
		list[i].hash = nameHash(list[i].name, w.hashSeed)
	}
	slices.SortFunc(list, func(a, b dirEntry) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.name, b.name)) })
	var leaves []indexEntry
	var leafBlocks [][]byte
	for len(list) > 0 {
		n, size := 0, 0
		for n < len(list) && size+list[n].size() <= blockSize-dirTail {
			size += list[n].size()
			n++
		}
		hash := list[0].hash
		if count := len(leaves); count > 0 && leaves[count-1].last == hash {
			hash |= 1 // goes on from the block before
		}
		leaves = append(leaves, indexEntry{hash: hash, last: list[n-1].hash})
		leafBlocks = append(leafBlocks, dirBlock(seed, list[:n]))
		list = list[n:]
	}
	return w.index(seed, dots, leaves, leafBlocks)
}

// indexEntry is a leaf or a node of an index: the first hash in it, the last, its block.
type indexEntry struct {
	hash, last uint32
	block      uint32
}

// index puts the root and the nodes of an index before the leaves.
func (w *writer) index(seed uint32, dots []dirEntry, leaves []indexEntry, leafBlocks [][]byte) ([][]byte, bool, error) {
	nodes := 0
	if len(leaves) > rootLimit-1 {
		nodes = (len(leaves) + nodeLimit - 2) / (nodeLimit - 1)
	}
	if nodes > rootLimit-1 {
		return nil, false, fmt.Errorf("%d blocks of entries are too many for a directory", len(leaves))
	}
	for i := range leaves {
		leaves[i].block = uint32(1 + nodes + i)
	}
	le := binary.LittleEndian
	root := make([]byte, blockSize)
	putEntry(root, dots[0], 12)
	putEntry(root[12:], dots[1], blockSize-12)
	root[28], root[29] = hashHalfMD4, 8 // the hash, the length of this record
	blocks := [][]byte{root}
	top := leaves
	if nodes > 0 {
		root[30] = 1 // levels below
		top = nil
		for rest := leaves; len(rest) > 0; {
			n := min(len(rest), nodeLimit-1)
			node := make([]byte, blockSize)
			le.PutUint16(node[4:], blockSize)
			putIndex(seed, node, indexNode, nodeLimit, rest[:n])
			top = append(top, indexEntry{hash: rest[0].hash, block: uint32(len(blocks))})
			blocks = append(blocks, node)
			rest = rest[n:]
		}
	}
	putIndex(seed, root, indexRoot, rootLimit, top)
	return append(blocks, leafBlocks...), true, nil
}

// putIndex writes the entries of an index's block at an offset, with the checksum. The
// hash of the first one is not written: the counts are there.
func putIndex(seed uint32, b []byte, at, limit int, list []indexEntry) {
	le := binary.LittleEndian
	for i, e := range list {
		le.PutUint32(b[at+8*i:], e.hash)
		le.PutUint32(b[at+8*i+4:], e.block)
	}
	le.PutUint16(b[at:], uint16(limit))
	le.PutUint16(b[at+2:], uint16(len(list)))
	sum := crc32c(seed, b[:at+8*len(list)])
	sum = crc32c(sum, make([]byte, 8)) // the tail with its checksum as zeros
	le.PutUint32(b[at+8*limit+4:], sum)
}
