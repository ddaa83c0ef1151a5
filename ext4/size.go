package ext4

import (
	"fmt"

	"github.com/cowl-disk/cowl/fstree"
)

// scattered is after how many blocks of data one for a tree of extents is counted: a file
// in which every other block is a hole has an extent for each.
const scattered = 2 * extentsInLeaf

// MinSize returns a size in bytes that is enough for Write to write the tree with the
// options, whose Size does not count. It opens large files, to leave their holes out.
// Blocks of zeros in data are counted, so that less can be enough.
func MinSize(root *fstree.Node, o Options) (int64, error) {
	need, inodes := int64(1), int64(firstInode)
	seen := map[*fstree.Node]bool{}
	for path, n := range root.Walk() {
		if seen[n] {
			continue
		}
		seen[n] = true
		inodes++
		blocks, err := blocksOf(n)
		if err != nil {
			return 0, fmt.Errorf("%q: %w", "/"+path, err)
		}
		need += blocks
	}
	need += need/scattered + 1
	for size := need + 64; ; {
		o.Size = size * blockSize
		short := int64(64)
		l, err := newLayout(o, inodes)
		if err == nil {
			// the resize inode's block, and the journal with its tree of extents
			if short = need + l.journal + l.journal/maxExtent/extentsInLeaf + 2 - l.free; short <= 0 {
				return o.Size, nil
			}
		} else if size > 1<<32 {
			return 0, err
		}
		size += max(short, size/256)
	}
}

// blocksOf is how many blocks a node takes at most.
func blocksOf(n *fstree.Node) (blocks int64, err error) {
	outside := 0
	for _, x := range n.Xattrs {
		outside += xattrEntry + len(x.Name) + len(x.Value) + 6
	}
	if outside > inlineXattrs-4 {
		blocks++
	}
	switch n.Kind {
	case fstree.Dir:
		// leaves are filled until the next entry does not fit
		room := int64(blockSize - dirTail - entryHead - fstree.MaxName - 3)
		total := int64(24)
		for _, c := range n.Children() {
			total += int64(dirEntry{name: c.Name}.size())
		}
		leaves := total/room + 1
		return blocks + leaves + leaves/(nodeLimit-1) + 2, nil
	case fstree.Symlink:
		return blocks + 1, nil
	case fstree.File:
		if n.Size <= 1<<20 {
			return blocks + (n.Size+blockSize-1)/blockSize, nil
		}
		r, err := n.OpenContent()
		if err != nil {
			return 0, err
		}
		defer r.Close()
		for off := int64(0); off < n.Size; {
			start, end, err := fstree.DataAfter(r, off, n.Size)
			if err != nil {
				return 0, err
			}
			if start >= n.Size {
				break
			}
			first := max(off, start&^(blockSize-1))
			off = min((end+blockSize-1)&^(blockSize-1), n.Size)
			blocks += (off - first + blockSize - 1) / blockSize
		}
	}
	return blocks, nil
}
