package fat

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/internal/fat"
)

// plan gives directories and files their clusters, and makes the directories' entries.
func (f *geometry) plan(root *fstree.Node) error {
	top := &object{path: "/", node: root}
	return f.directory(top, top)
}

// directory allocates a directory and all below it, and makes its entries.
func (f *geometry) directory(o, top *object) error {
	names, err := shortNames(o)
	if err != nil {
		return err
	}
	size := int64(len(names.entries))
	if o == top {
		if f.Label != "" {
			size += entrySize
		}
	} else {
		size += 2 * entrySize // . and ..
	}
	if size > maxDir {
		return fmt.Errorf("%q: the directory has too many entries for FAT", o.path)
	}
	o.entries = make([]byte, 0, size)
	if o == top && f.volume.RootSize() > 0 {
		if size > f.volume.RootSize() {
			return fmt.Errorf("%w: the root directory of FAT%d has %d entries at most", ErrNoSpace, f.Bits, rootEntries)
		}
		f.objects = append(f.objects, o)
	} else if err := f.allocate(o, max(size, 1)); err != nil {
		return err
	}
	switch {
	case o != top:
		o.entries = f.entry(o.entries, dot(1), fat.AttrDirectory, o)
		parent := o.parent
		if parent == top {
			parent = &object{node: top.node} // the root has no number here
		}
		o.entries = f.entry(o.entries, dot(2), fat.AttrDirectory, parent)
	case f.Label != "":
		label := &object{node: &fstree.Node{ModTime: f.Time}}
		o.entries = f.entry(o.entries, f.volume.Label, fat.AttrLabel, label)
	}
	base := len(o.entries)
	o.entries = append(o.entries, names.entries...)
	for i, c := range o.node.Children() {
		child := &object{path: strings.TrimSuffix(o.path, "/") + "/" + c.Name, node: c.Node, parent: o}
		entry := o.entries[base+names.at[i]:][:entrySize]
		switch c.Node.Kind {
		case fstree.Dir:
			if err := f.directory(child, top); err != nil {
				return err
			}
			entry[11] = fat.AttrDirectory
		case fstree.File:
			if c.Node.Size > maxFile {
				return fmt.Errorf("%q: a file of %d bytes is too large for FAT", child.path, c.Node.Size)
			}
			if err := f.allocate(child, c.Node.Size); err != nil {
				return err
			}
			entry[11] = fat.AttrArchive
			binary.LittleEndian.PutUint32(entry[28:], uint32(c.Node.Size))
		default:
			return fmt.Errorf("%q: FAT has no place for a %s", child.path, c.Node.Kind)
		}
		fat.PutCluster(entry, uint32(child.first))
		fat.PutTimes(entry, c.Node.ModTime.UTC()) // times of FAT are of no zone
	}
	return nil
}

// dot is the name of the entry of a directory itself, or of its parent.
func dot(n int) (name [11]byte) {
	copy(name[:], fmt.Sprintf("%-11s", strings.Repeat(".", n)))
	return name
}

// entry appends an entry without a long name.
func (f *geometry) entry(b []byte, name [11]byte, attr byte, o *object) []byte {
	e := make([]byte, entrySize)
	copy(e, name[:])
	e[11] = attr
	fat.PutCluster(e, uint32(o.first))
	fat.PutTimes(e, o.node.ModTime.UTC()) // times of FAT are of no zone
	return append(b, e...)
}

// directoryNames are the entries of a directory with their long names, without the rest.
type directoryNames struct {
	entries []byte
	at      []int // where the short entry of each child is
}

// shortNames makes the entries' names: long ones where a name is not a short one itself.
func shortNames(o *object) (n directoryNames, err error) {
	folded := map[string]string{}
	children := o.node.Children()
	all := make([]string, len(children))
	for i, c := range children {
		if err := fat.CheckName(c.Name); err != nil {
			return n, fmt.Errorf("%q: %w", strings.TrimSuffix(o.path, "/")+"/"+c.Name, err)
		}
		key := fat.Fold(c.Name)
		if other, ok := folded[key]; ok {
			return n, fmt.Errorf("%q: the names %q and %q differ in case only, which FAT does not tell apart", o.path, other, c.Name)
		}
		folded[key], all[i] = c.Name, c.Name
	}
	short, long := fat.ShortNames(all)
	for i, c := range children {
		if long[i] {
			n.entries = fat.AppendLong(n.entries, c.Name, short[i])
		}
		n.at = append(n.at, len(n.entries))
		n.entries = append(n.entries, short[i][:]...)
		n.entries = append(n.entries, make([]byte, entrySize-11)...)
	}
	return n, nil
}
