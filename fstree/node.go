package fstree

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
)

// Kind is the type of a node.
type Kind uint8

// The types of nodes.
const (
	Dir Kind = iota + 1
	File
	Symlink
	CharDevice
	BlockDevice
	FIFO
	Socket
)

// String returns the name of the kind as it is used in messages.
func (k Kind) String() string {
	names := [...]string{"nothing", "directory", "file", "symbolic link", "character device", "block device", "fifo", "socket"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", k)
}

// The bits of Node.Mode above the permissions.
const (
	SetUID = 0o4000
	SetGID = 0o2000
	Sticky = 0o1000
)

// Bounds that Linux sets and all trees keep.
const (
	MaxName   = 255  // bytes in a name
	MaxTarget = 4095 // bytes in the target of a symbolic link
)

// Xattr is an extended attribute. Name has its prefix, such as "user.".
type Xattr struct {
	Name  string
	Value []byte
}

// Node is what one or more names stand for. A node other than a directory that is in the
// tree under several names is a hard link.
type Node struct {
	Kind     Kind
	Mode     uint16 // permissions with SetUID, SetGID and Sticky: 0 to 07777
	UID, GID uint32
	ModTime  time.Time
	// Xattrs are sorted by name, each name once. Use SetXattrs.
	Xattrs []Xattr
	// Major and Minor are the numbers of a device.
	Major, Minor uint32
	// Target is where a symbolic link points to: any bytes but zero, 1 to MaxTarget of them.
	Target string
	// Size is the length of a file in bytes.
	Size int64
	// Content is what a file holds. A file of Size 0 needs none.
	Content Content

	children map[string]*Node
	sorted   []Child // children by name, nil when not known
}

// Child is an entry of a directory.
type Child struct {
	Name string
	Node *Node
}

// NewDir returns an empty directory of root with the permissions mode.
func NewDir(mode uint16) *Node {
	return &Node{Kind: Dir, Mode: mode, ModTime: time.Unix(0, 0)}
}

// Child returns the entry of that name, nil if there is none.
func (n *Node) Child(name string) *Node { return n.children[name] }

// Len returns the number of entries of a directory.
func (n *Node) Len() int { return len(n.children) }

// Children returns the entries of a directory in the order of their names' bytes. The
// slice must not be changed.
func (n *Node) Children() []Child {
	if n.sorted == nil && len(n.children) > 0 {
		n.sorted = make([]Child, 0, len(n.children))
		for name, c := range n.children {
			n.sorted = append(n.sorted, Child{name, c})
		}
		slices.SortFunc(n.sorted, func(a, b Child) int { return cmp.Compare(a.Name, b.Name) })
	}
	return n.sorted
}

// Set puts a node into a directory under a name, in place of what has the name. It fails
// for a name that no file system holds: "", ".", "..", with a slash or a zero byte, or
// longer than MaxName. A directory must not be put into two places.
func (n *Node) Set(name string, child *Node) error {
	if n.Kind != Dir {
		return fmt.Errorf("a %s has no entries", n.Kind)
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is no name", name)
	}
	if len(name) > MaxName {
		return fmt.Errorf("a name of %d bytes is too long (at most %d): %.40q…", len(name), MaxName, name)
	}
	if n.children == nil {
		n.children = map[string]*Node{}
	}
	n.children[name], n.sorted = child, nil
	return nil
}

// Remove takes an entry, and what is below it, out of a directory.
func (n *Node) Remove(name string) {
	delete(n.children, name)
	n.sorted = nil
}

// Xattr returns the value of an extended attribute.
func (n *Node) Xattr(name string) (value []byte, ok bool) {
	i, ok := slices.BinarySearchFunc(n.Xattrs, name, func(x Xattr, name string) int { return cmp.Compare(x.Name, name) })
	if !ok {
		return nil, false
	}
	return n.Xattrs[i].Value, true
}

// SetXattrs replaces all extended attributes. The last of several with one name counts.
// It takes the slice over.
func (n *Node) SetXattrs(list []Xattr) {
	slices.SortStableFunc(list, func(a, b Xattr) int { return cmp.Compare(a.Name, b.Name) })
	kept := list[:0]
	for i, x := range list {
		if i+1 == len(list) || list[i+1].Name != x.Name {
			kept = append(kept, x)
		}
	}
	if n.Xattrs = kept; len(kept) == 0 {
		n.Xattrs = nil
	}
}

// Walk visits a directory and all below it, parents first, entries in the order of their
// names. Paths are relative to n, without a leading slash; that of n is "".
func (n *Node) Walk() iter.Seq2[string, *Node] {
	return func(yield func(string, *Node) bool) { n.walk("", yield) }
}

func (n *Node) walk(path string, yield func(string, *Node) bool) bool {
	if !yield(path, n) {
		return false
	}
	if path != "" {
		path += "/"
	}
	for _, c := range n.Children() {
		if !c.Node.walk(path+c.Name, yield) {
			return false
		}
	}
	return true
}

// Links counts the names of each node that is not a directory and has more than one.
func (n *Node) Links() map[*Node]int {
	seen := map[*Node]int{}
	for _, c := range n.Walk() {
		if c.Kind != Dir {
			seen[c]++
		}
	}
	for c, names := range seen {
		if names == 1 {
			delete(seen, c)
		}
	}
	return seen
}

// Lookup returns the node at a path of names between slashes, nil if there is none. It
// follows no symbolic link. "" is n itself.
func (n *Node) Lookup(path string) *Node {
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if n = n.Child(name); n == nil {
			return nil
		}
	}
	return n
}
