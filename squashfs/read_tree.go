package squashfs

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cowl-disk/cowl/fstree"
)

// Tree reads the tree of the image. Contents are read from the image when they are
// opened. Closing the tree does not close what Open was given.
func (i *Image) Tree(o fstree.Options) (*fstree.Tree, error) {
	t := treeReader{Image: i, use: fstree.NewMeter(o.Limits), nodes: map[uint64]*fstree.Node{}}
	root, err := t.inode(i.sb.root)
	if err == nil && root.node.Kind != fstree.Dir {
		err = fmt.Errorf("%w: the root is a %s", ErrFormat, root.node.Kind)
	}
	if err == nil {
		err = t.directory(root, 0, 0)
	}
	if err != nil {
		return nil, err
	}
	tree := &fstree.Tree{Root: root.node}
	if o.Owner != nil {
		tree.SetOwner(*o.Owner)
	}
	return tree, nil
}

type treeReader struct {
	*Image
	use   *fstree.Meter
	nodes map[uint64]*fstree.Node // by their inode: hard links, and directories that are there twice
}

// found is an inode that has been read.
type found struct {
	node *fstree.Node
	// of a directory: where its listing is, and its length
	listing uint64
	size    int64
}

// directory reads the entries of a directory, whose path has that many bytes, and all below
// it.
func (t *treeReader) directory(dir *found, depth, path int) error {
	if err := t.use.Depth(depth); err != nil {
		return err
	}
	le := binary.LittleEndian
	m := t.at(t.sb.dirTable, dir.listing)
	for left := dir.size; left > 0; {
		var head [12]byte
		if left -= 12; left < 0 {
			return fmt.Errorf("%w: a listing is cut off", ErrFormat)
		}
		if err := m.read(head[:]); err != nil {
			return err
		}
		count, block := le.Uint32(head[:]), le.Uint32(head[4:])
		if count >= dirHeaderMost {
			return fmt.Errorf("%w: a listing with %d entries after one header", ErrFormat, count)
		}
		for range count + 1 {
			var e [8]byte
			if err := m.read(e[:]); err != nil {
				return err
			}
			name, err := m.bytes(int(le.Uint16(e[6:])&0xff) + 1)
			if err != nil {
				return err
			}
			if left -= int64(8 + len(name)); left < 0 || le.Uint16(e[6:]) > 255 {
				return fmt.Errorf("%w: a listing is cut off, or has a name of %d bytes", ErrFormat, le.Uint16(e[6:]))
			}
			if err := t.entry(dir, string(name), uint64(block)<<16|uint64(le.Uint16(e[:])), depth, path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *treeReader) entry(dir *found, name string, ref uint64, depth, path int) error {
	child, err := t.child(ref)
	if err != nil {
		return fmt.Errorf("%.60q: %w", name, err)
	}
	if dir.node.Child(name) != nil {
		return fmt.Errorf("%w: the name %.60q twice in a directory", ErrFormat, name)
	}
	if err := dir.node.Set(name, child.node); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	path += 1 + len(name)
	if err := t.use.Node(path, child.node); err != nil {
		return err
	}
	if child.node.Kind == fstree.Dir {
		return t.directory(child, depth+1, path)
	}
	return nil
}

func (t *treeReader) child(ref uint64) (*found, error) {
	if n := t.nodes[ref]; n != nil {
		if n.Kind == fstree.Dir {
			return nil, fmt.Errorf("%w: the directory is in the tree twice", ErrFormat)
		}
		return &found{node: n}, nil
	}
	f, err := t.inode(ref)
	if err != nil {
		return nil, err
	}
	t.nodes[ref] = f.node // whatever the count of links says
	if f.node.Kind == fstree.File {
		return f, t.use.File(f.node.Size)
	}
	return f, nil
}

// inode reads an inode.
func (t *treeReader) inode(ref uint64) (*found, error) {
	le := binary.LittleEndian
	m := t.at(t.sb.inodeTable, ref)
	b, err := m.bytes(16)
	if err != nil {
		return nil, err
	}
	kind, mode := le.Uint16(b), le.Uint16(b[2:])
	extended := kind > extendedType
	if extended {
		kind -= extendedType
	}
	if kind < typeDir || kind > typeSocket {
		return nil, fmt.Errorf("%w: an inode of type %d", ErrFormat, le.Uint16(b))
	}
	n := &fstree.Node{Kind: kinds[kind], Mode: mode & 0o7777, ModTime: time.Unix(int64(le.Uint32(b[8:])), 0)}
	uid, gid := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if uid >= len(t.ids) || gid >= len(t.ids) {
		return nil, fmt.Errorf("%w: owner %d:%d of %d", ErrFormat, uid, gid, len(t.ids))
	}
	n.UID, n.GID = t.ids[uid], t.ids[gid]
	f := &found{node: n}
	xattrs := uint32(none32)
	switch kind {
	case typeDir:
		xattrs, err = t.dirInode(f, m, extended)
	case typeFile:
		xattrs, err = t.fileInode(f, m, extended)
	default:
		xattrs, err = t.otherInode(f, m, extended)
	}
	if err == nil && xattrs != none32 {
		err = t.attributes(n, xattrs)
	}
	return f, err
}

func (t *treeReader) dirInode(f *found, m *metaReader, extended bool) (xattrs uint32, err error) {
	le := binary.LittleEndian
	if !extended {
		b, err := m.bytes(16)
		f.listing = uint64(le.Uint32(b))<<16 | uint64(le.Uint16(b[10:]))
		f.size = int64(le.Uint16(b[8:])) - 3
		return none32, err
	}
	b, err := m.bytes(24)
	f.listing = uint64(le.Uint32(b[8:]))<<16 | uint64(le.Uint16(b[18:]))
	f.size = int64(le.Uint32(b[4:])) - 3
	return le.Uint32(b[20:]), err
}

func (t *treeReader) fileInode(f *found, m *metaReader, extended bool) (xattrs uint32, err error) {
	le := binary.LittleEndian
	c := &imageFile{i: t.Image}
	xattrs = none32
	if !extended {
		b, err := m.bytes(16)
		if err != nil {
			return 0, err
		}
		c.start, c.fragment, c.fragOffset, c.size = uint64(le.Uint32(b)), le.Uint32(b[4:]), le.Uint32(b[8:]), int64(le.Uint32(b[12:]))
	} else {
		b, err := m.bytes(40)
		if err != nil {
			return 0, err
		}
		c.start, c.size = le.Uint64(b), int64(le.Uint64(b[8:]))
		c.fragment, c.fragOffset, xattrs = le.Uint32(b[28:]), le.Uint32(b[32:]), le.Uint32(b[36:])
	}
	if c.size < 0 {
		return 0, fmt.Errorf("%w: a file of %d bytes", ErrFormat, uint64(c.size))
	}
	c.list = *m
	f.node.Size, f.node.Content = c.size, c
	return xattrs, nil
}

// otherInode reads what has no contents.
func (t *treeReader) otherInode(f *found, m *metaReader, extended bool) (xattrs uint32, err error) {
	le := binary.LittleEndian
	if _, err := m.bytes(4); err != nil { // the count of links
		return 0, err
	}
	var b []byte
	switch f.node.Kind {
	case fstree.Symlink:
		if b, err = m.bytes(4); err != nil {
			return 0, err
		}
		n := le.Uint32(b)
		if n == 0 || n > fstree.MaxTarget {
			return 0, fmt.Errorf("%w: a symbolic link with a target of %d bytes", ErrFormat, n)
		}
		if b, err = m.bytes(int(n)); err != nil {
			return 0, err
		}
		f.node.Target = string(b)
	case fstree.CharDevice, fstree.BlockDevice:
		if b, err = m.bytes(4); err != nil {
			return 0, err
		}
		f.node.Major, f.node.Minor = decodeDevice(le.Uint32(b))
	}
	if !extended {
		return none32, nil
	}
	b, err = m.bytes(4)
	return le.Uint32(b), err
}

// attributes reads a set of extended attributes.
func (t *treeReader) attributes(n *fstree.Node, id uint32) error {
	le := binary.LittleEndian
	if id >= t.xattrCount {
		return fmt.Errorf("%w: attributes %d of %d", ErrFormat, id, t.xattrCount)
	}
	record, err := t.table(t.xattrIndex, int64(id)*16, 16)
	if err != nil {
		return err
	}
	m := t.at(uint64(t.xattrValues), le.Uint64(record))
	var list []fstree.Xattr
	total := 0
	for range le.Uint32(record[8:]) {
		b, err := m.bytes(4)
		if err != nil {
			return err
		}
		kind, size := le.Uint16(b), int(le.Uint16(b[2:]))
		space := int(kind &^ xattrElsewhere)
		if space >= len(xattrPrefixes) || size > fstree.MaxName {
			return fmt.Errorf("%w: an attribute of type %#x with a name of %d bytes", ErrFormat, kind, size)
		}
		name, err := m.bytes(size)
		if err != nil {
			return err
		}
		value, err := t.value(m)
		if err == nil && kind&xattrElsewhere != 0 {
			if len(value) != 8 {
				return fmt.Errorf("%w: a reference of %d bytes to a value", ErrFormat, len(value))
			}
			value, err = t.value(t.at(uint64(t.xattrValues), le.Uint64(value)))
		}
		if err != nil {
			return err
		}
		if total += len(name) + len(value) + 40; total > maxXattrs {
			return fmt.Errorf("attributes of more than %d bytes: %w", maxXattrs, fstree.ErrLimit)
		}
		list = append(list, fstree.Xattr{Name: xattrPrefixes[space] + string(name), Value: value})
	}
	n.SetXattrs(list)
	return nil
}

const (
	maxXattrValue = 64 << 10
	maxXattrs     = 4 << 20 // of one file
)

func (t *treeReader) value(m *metaReader) ([]byte, error) {
	b, err := m.bytes(4)
	if err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(b)
	if n > maxXattrValue {
		return nil, fmt.Errorf("%w: an attribute of %d bytes", ErrFormat, n)
	}
	return m.bytes(int(n))
}
