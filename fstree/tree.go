package fstree

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Tree is a file system. Close gives its files back; contents cannot be read after it.
type Tree struct {
	Root *Node
	// Lost tells in plain words what of the source the tree does not hold, once each.
	Lost    []string
	closers []io.Closer
}

// Options says how a source is read.
type Options struct {
	Limits Limits
	// Owner, where not nil, is the owner of every node, whatever the source says.
	Owner *Owner
	// TempDir is where the temporary file for contents is made, "" for that of the system.
	TempDir string
}

// Owner is a user and a group by their numbers.
type Owner struct{ UID, GID uint32 }

// New returns a tree of an empty directory with mode 0755.
func New() *Tree { return &Tree{Root: NewDir(0o755)} }

// Close releases what the contents of the tree are read from.
func (t *Tree) Close() error {
	var errs []error
	for _, c := range t.closers {
		errs = append(errs, c.Close())
	}
	t.closers = nil
	return errors.Join(errs...)
}

// OnClose adds what Close closes.
func (t *Tree) OnClose(c io.Closer) { t.closers = append(t.closers, c) }

// lose notes something that the tree does not hold.
func (t *Tree) lose(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, l := range t.Lost {
		if l == text {
			return
		}
	}
	if len(t.Lost) < 100 {
		t.Lost = append(t.Lost, text)
	}
}

// SetOwner makes o the owner of all nodes.
func (t *Tree) SetOwner(o Owner) {
	for _, n := range t.Root.Walk() {
		n.UID, n.GID = o.UID, o.GID
	}
}

// ClampTimes makes no node younger than limit.
func (t *Tree) ClampTimes(limit time.Time) {
	for _, n := range t.Root.Walk() {
		if n.ModTime.After(limit) {
			n.ModTime = limit
		}
	}
}

// finish applies what the options say about the whole tree.
func (t *Tree) finish(o Options) *Tree {
	if o.Owner != nil {
		t.SetOwner(*o.Owner)
	}
	return t
}

// builder puts the entries of archives into a tree.
type builder struct {
	tree *Tree
	use  *Meter
	// touched has the entries that the layer being applied made or changed, by parent and
	// name. nil for a plain archive.
	touched map[entry]bool
}

type entry struct {
	dir  *Node
	name string
}

// maxLinks is how many symbolic links may be on the way to an entry, as in Linux.
const maxLinks = 40

// splitPath returns the names of an archive's path. ".." is refused.
func splitPath(path string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		switch name {
		case "", ".":
		case "..":
			return nil, fmt.Errorf("%w: %q leads out of its directory", ErrHostile, path)
		default:
			names = append(names, name)
		}
	}
	return names, nil
}

// dir returns the directory with that path, following symbolic links inside the tree and
// making what is missing, and how many bytes its own path has.
func (b *builder) dir(names []string) (dir *Node, path int, err error) {
	stack, links := []*Node{b.tree.Root}, 0
	paths := []int{0} // of those in stack
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		at := stack[len(stack)-1]
		switch name {
		case "", ".":
			continue
		case "..": // from a symbolic link; that of the root is the root
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		paths = append(paths[:len(stack)], paths[len(stack)-1]+1+len(name))
		if err := b.use.Depth(len(stack)); err != nil {
			return nil, 0, err
		}
		next := at.Child(name)
		switch {
		case next == nil:
			next = NewDir(0o755)
			if err := b.use.Node(paths[len(stack)], next); err != nil {
				return nil, 0, err
			}
			if err := at.Set(name, next); err != nil {
				return nil, 0, fmt.Errorf("%w: %w", ErrHostile, err)
			}
		case next.Kind == Symlink:
			if links++; links > maxLinks {
				return nil, 0, fmt.Errorf("%w: too many symbolic links on the way", ErrHostile)
			}
			if strings.HasPrefix(next.Target, "/") {
				stack = stack[:1]
			}
			names = append(strings.Split(next.Target, "/"), names...)
			continue
		case next.Kind != Dir:
			return nil, 0, fmt.Errorf("%w: %q is a %s, not a directory", ErrHostile, name, next.Kind)
		}
		b.touch(at, name)
		stack = append(stack, next)
	}
	return stack[len(stack)-1], paths[len(stack)-1], nil
}

func (b *builder) touch(dir *Node, name string) {
	if b.touched != nil {
		b.touched[entry{dir, name}] = true
	}
}

// add puts a node at a path. A directory that is there already keeps its entries.
func (b *builder) add(path string, n *Node) error {
	names, err := splitPath(path)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		if err := b.use.Node(0, n); err != nil {
			return err
		}
		if n.Kind != Dir {
			return fmt.Errorf("%w: the root of the tree is a %s", ErrHostile, n.Kind)
		}
		update(b.tree.Root, n)
		return nil
	}
	dir, at, err := b.dir(names[:len(names)-1])
	if err != nil {
		return err
	}
	name := names[len(names)-1]
	if err := errors.Join(b.use.Depth(len(names)), b.use.Node(at+1+len(name), n)); err != nil {
		return err
	}
	b.touch(dir, name)
	if old := dir.Child(name); old != nil && old.Kind == Dir {
		if n.Kind == Dir {
			update(old, n)
			return nil
		}
		if old.Len() > 0 && b.touched == nil {
			return fmt.Errorf("%w: a %s takes the place of a directory that is not empty", ErrHostile, n.Kind)
		}
	}
	if err := dir.Set(name, n); err != nil {
		return fmt.Errorf("%w: %w", ErrHostile, err)
	}
	return nil
}

// update gives a directory the metadata of another.
func update(old, n *Node) {
	old.Mode, old.UID, old.GID, old.ModTime, old.Xattrs = n.Mode, n.UID, n.GID, n.ModTime, n.Xattrs
}

// link makes path a further name of the node at target.
func (b *builder) link(path, target string) error {
	names, err := splitPath(target)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: a hard link to the root", ErrHostile)
	}
	dir, _, err := b.dir(names[:len(names)-1])
	if err != nil {
		return err
	}
	n := dir.Child(names[len(names)-1])
	if n == nil || n.Kind == Dir {
		return fmt.Errorf("%w: the target %q of the hard link is missing or a directory", ErrHostile, target)
	}
	return b.add(path, n)
}

// whiteout removes what lower layers have under a name; opaque, all that they have in a
// directory.
func (b *builder) whiteout(path string, opaque bool) error {
	names, err := splitPath(path)
	if err != nil {
		return err
	}
	if opaque {
		dir, _, err := b.dir(names)
		if err != nil {
			return err
		}
		b.removeLower(dir)
		return nil
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: a whiteout of the root", ErrHostile)
	}
	dir, _, err := b.dir(names[:len(names)-1])
	if err != nil {
		return err
	}
	name := names[len(names)-1]
	switch n := dir.Child(name); {
	case n == nil:
	case !b.touched[entry{dir, name}]:
		dir.Remove(name)
	case n.Kind == Dir:
		b.removeLower(n)
	}
	return nil
}

// removeLower removes from a directory what the layer being applied did not bring.
func (b *builder) removeLower(dir *Node) {
	for _, c := range dir.Children() {
		if !b.touched[entry{dir, c.Name}] {
			dir.Remove(c.Name)
		} else if c.Node.Kind == Dir {
			b.removeLower(c.Node)
		}
	}
}
