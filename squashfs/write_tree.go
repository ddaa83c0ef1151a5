package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/fstree"
)

// tree makes the tables of inodes and directories. Inodes come before the listing that
// names them.
func (w *writer) tree(root *fstree.Node) error {
	w.inodes.packer, w.dirs.packer = w.packer, w.packer
	w.ids, w.xattrs.sets = map[uint32]uint16{}, map[string]uint32{}
	w.xattrs.values.packer = w.packer
	if err := w.directory(w.byNode[root]); err != nil {
		return err
	}
	w.inodes.flush()
	w.dirs.flush()
	w.xattrs.values.flush()
	return errors.Join(w.inodes.err, w.dirs.err, w.xattrs.values.err)
}

func (w *writer) directory(n *inode) error {
	for _, c := range n.Children() {
		child := w.byNode[c.Node]
		var err error
		switch {
		case child.Kind == fstree.Dir:
			err = w.directory(child)
		case !child.put:
			err = w.leaf(child)
		}
		if err != nil {
			return err
		}
	}
	start := w.dirs.ref()
	size, index, err := w.listing(n)
	if err != nil {
		return fmt.Errorf("%q: %w", n.path+"/", err)
	}
	le := binary.LittleEndian
	id, err := w.common(n)
	if err != nil {
		return err
	}
	var b []byte
	if id == none32 && size+3 <= math.MaxUint16 && len(index) == 0 {
		b = le.AppendUint32(nil, uint32(start>>16))
		b = le.AppendUint32(b, n.links)
		b = le.AppendUint16(b, uint16(size+3))
		b = le.AppendUint16(b, uint16(start))
		b = le.AppendUint32(b, n.parent)
		w.inode(n, typeDir, b)
		return nil
	}
	if size+3 > math.MaxUint32 {
		return fmt.Errorf("%q: the directory is too large for squashfs", n.path)
	}
	// what does not fit in the count is left out: the rest is found by reading on
	index = index[:min(len(index), math.MaxUint16)]
	b = le.AppendUint32(nil, n.links)
	b = le.AppendUint32(b, uint32(size+3))
	b = le.AppendUint32(b, uint32(start>>16))
	b = le.AppendUint32(b, n.parent)
	b = le.AppendUint16(b, uint16(len(index)))
	b = le.AppendUint16(b, uint16(start))
	b = le.AppendUint32(b, id)
	for _, i := range index {
		b = le.AppendUint32(b, i.at)
		b = le.AppendUint32(b, i.block)
		b = le.AppendUint32(b, uint32(len(i.name)-1))
		b = append(b, i.name...)
	}
	w.inode(n, typeDir+extendedType, b)
	return nil
}

// indexEntry tells where in a listing a header is, and the first name after it.
type indexEntry struct {
	at, block uint32
	name      string
}

// listing writes the entries of a directory. There is an index entry for the first
// header in each further metadata block.
func (w *writer) listing(n *inode) (size int64, index []indexEntry, err error) {
	le := binary.LittleEndian
	list := n.Children()
	block := uint64(len(w.dirs.out))
	for len(list) > 0 {
		first := w.byNode[list[0].Node]
		count := 0
		for count < len(list) && count < dirHeaderMost {
			c := w.byNode[list[count].Node]
			diff := int64(c.number) - int64(first.number)
			if c.ref>>16 != first.ref>>16 || diff != int64(int16(diff)) {
				break
			}
			count++
		}
		if at := uint64(len(w.dirs.out)); at != block {
			block = at
			index = append(index, indexEntry{uint32(size), uint32(at), list[0].Name})
		}
		b := le.AppendUint32(nil, uint32(count-1))
		b = le.AppendUint32(b, uint32(first.ref>>16))
		b = le.AppendUint32(b, first.number)
		for _, c := range list[:count] {
			child := w.byNode[c.Node]
			b = le.AppendUint16(b, uint16(child.ref))
			b = le.AppendUint16(b, uint16(child.number-first.number))
			b = le.AppendUint16(b, inodeTypes[c.Node.Kind])
			b = le.AppendUint16(b, uint16(len(c.Name)-1))
			b = append(b, c.Name...)
		}
		w.dirs.write(b)
		size += int64(len(b))
		list = list[count:]
		if len(w.inodes.out) > math.MaxUint32 || len(w.dirs.out) > math.MaxUint32 {
			return 0, nil, errors.New("there are too many files for squashfs")
		}
	}
	return size, index, nil
}

// common prepares what all inodes have and returns the number of the attributes.
func (w *writer) common(n *inode) (xattrs uint32, err error) {
	for _, id := range []uint32{n.UID, n.GID} {
		if _, ok := w.ids[id]; !ok {
			if len(w.ids) == math.MaxUint16 {
				return 0, fmt.Errorf("%q: there are more than %d owners and groups, which squashfs cannot hold", n.path, math.MaxUint16)
			}
			w.ids[id] = uint16(len(w.ids))
			w.idTable = binary.LittleEndian.AppendUint32(w.idTable, id)
		}
	}
	if n.Mode > 0o7777 {
		return 0, fmt.Errorf("%q: mode %o", n.path, n.Mode)
	}
	return w.xattrs.add(n, w)
}

// inode writes an inode whose part after the common fields is b.
func (w *writer) inode(n *inode, kind uint16, b []byte) {
	le := binary.LittleEndian
	n.ref, n.put = w.inodes.ref(), true
	seconds := w.seconds(n.ModTime)
	w.latest = max(w.latest, seconds)
	head := le.AppendUint16(nil, kind)
	head = le.AppendUint16(head, n.Mode)
	head = le.AppendUint16(head, w.ids[n.UID])
	head = le.AppendUint16(head, w.ids[n.GID])
	head = le.AppendUint32(head, seconds)
	head = le.AppendUint32(head, n.number)
	w.inodes.write(append(head, b...))
}

// leaf writes the inode of what is no directory.
func (w *writer) leaf(n *inode) error {
	le := binary.LittleEndian
	xattrs, err := w.common(n)
	if err != nil {
		return err
	}
	kind, ok := inodeTypes[n.Kind]
	if !ok {
		return fmt.Errorf("%q: a %s", n.path, n.Kind)
	}
	if n.Kind == fstree.File {
		w.file(n, xattrs)
		return nil
	}
	b := le.AppendUint32(nil, n.links)
	switch n.Kind {
	case fstree.Symlink:
		if n.Target == "" || len(n.Target) > fstree.MaxTarget {
			return fmt.Errorf("%q: a symbolic link with a target of %d bytes", n.path, len(n.Target))
		}
		b = append(le.AppendUint32(b, uint32(len(n.Target))), n.Target...)
	case fstree.CharDevice, fstree.BlockDevice:
		device, err := encodeDevice(n.Major, n.Minor)
		if err != nil {
			return fmt.Errorf("%q: %w", n.path, err)
		}
		b = le.AppendUint32(b, device)
	}
	if xattrs != none32 {
		kind += extendedType
		b = le.AppendUint32(b, xattrs)
	}
	w.inode(n, kind, b)
	return nil
}

func (w *writer) file(n *inode, xattrs uint32) {
	le := binary.LittleEndian
	d := n.data
	kind := uint16(typeFile)
	var b []byte
	if xattrs == none32 && n.links == 1 && d.sparse == 0 && n.Size <= math.MaxUint32 && d.start <= math.MaxUint32 {
		b = le.AppendUint32(nil, uint32(d.start))
		b = le.AppendUint32(b, d.fragment)
		b = le.AppendUint32(b, d.fragOffset)
		b = le.AppendUint32(b, uint32(n.Size))
	} else {
		kind += extendedType
		b = le.AppendUint64(nil, d.start)
		b = le.AppendUint64(b, uint64(n.Size))
		b = le.AppendUint64(b, uint64(max(0, min(d.sparse, n.Size-1)))) // the kernel wants some data
		b = le.AppendUint32(b, n.links)
		b = le.AppendUint32(b, d.fragment)
		b = le.AppendUint32(b, d.fragOffset)
		b = le.AppendUint32(b, xattrs)
	}
	for _, word := range d.blocks {
		b = le.AppendUint32(b, word)
	}
	w.inode(n, kind, b)
}

// xattrTable collects sets of attributes; inodes with equal ones share a set.
type xattrTable struct {
	values  metaWriter
	records []byte
	sets    map[string]uint32 // numbers of encoded sets
}

// add returns the number of an inode's attributes.
func (t *xattrTable) add(n *inode, w *writer) (uint32, error) {
	le := binary.LittleEndian
	var b []byte
	count := uint32(0)
	for _, x := range n.Xattrs {
		space := slices.IndexFunc(xattrPrefixes[:], func(p string) bool { return strings.HasPrefix(x.Name, p) })
		if space < 0 {
			w.lose("attribute " + x.Name + ": squashfs has those of user, trusted and security only")
			continue
		}
		name := strings.TrimPrefix(x.Name, xattrPrefixes[space])
		if name == "" || len(x.Name) > fstree.MaxName || len(x.Value) > math.MaxUint16+1 {
			return 0, fmt.Errorf("%q: attribute %.40q with a value of %d bytes", n.path, x.Name, len(x.Value))
		}
		b = le.AppendUint16(b, uint16(space))
		b = le.AppendUint16(b, uint16(len(name)))
		b = append(b, name...)
		b = le.AppendUint32(b, uint32(len(x.Value)))
		b = append(b, x.Value...)
		count++
	}
	if count == 0 {
		return none32, nil
	}
	if id, ok := t.sets[string(b)]; ok {
		return id, nil
	}
	id := uint32(len(t.sets))
	t.sets[string(b)] = id
	t.records = le.AppendUint64(t.records, t.values.ref())
	t.records = le.AppendUint32(t.records, count)
	t.records = le.AppendUint32(t.records, uint32(len(b)))
	t.values.write(b)
	return id, nil
}

// tables writes what comes after the contents.
func (w *writer) tables(sb *superblock, root *fstree.Node) error {
	sb.root = w.byNode[root].ref
	sb.ids = uint16(len(w.ids))
	sb.time = w.latest
	if !w.options.Time.IsZero() {
		sb.time = w.seconds(w.options.Time)
	}
	if w.options.NoFragments {
		sb.flags |= flagNoFragments
	} else if w.options.TailEnds {
		sb.flags |= flagTailFragments
	}
	sb.fragments = uint32(len(w.fragments) / 16)
	sb.inodeTable = w.out.at
	w.out.add(w.inodes.out)
	sb.dirTable = w.out.at
	w.out.add(w.dirs.out)
	table := func(records, prefix []byte) (start uint64, err error) {
		b, start, err := appendTable(nil, w.out.at, w.packer, records, prefix)
		w.out.add(b)
		return start, err
	}
	var err error
	if sb.fragTable, err = table(w.fragments, nil); err != nil {
		return err
	}
	if w.options.Exports {
		sb.flags |= flagExports
		var refs []byte
		for _, n := range w.nodes {
			refs = binary.LittleEndian.AppendUint64(refs, n.ref)
		}
		if sb.exportTable, err = table(refs, nil); err != nil {
			return err
		}
	}
	if sb.idTable, err = table(w.idTable, nil); err != nil {
		return err
	}
	if len(w.xattrs.records) == 0 {
		sb.xattrTable, sb.flags = none64, sb.flags|flagNoXattrs
		return nil
	}
	le := binary.LittleEndian
	prefix := le.AppendUint64(nil, w.out.at)
	prefix = le.AppendUint32(prefix, uint32(len(w.xattrs.records)/16))
	prefix = le.AppendUint32(prefix, 0)
	w.out.add(w.xattrs.values.out)
	sb.xattrTable, err = table(w.xattrs.records, prefix)
	return err
}
