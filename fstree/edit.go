package fstree

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Find follows a path inside the tree, symbolic links on the way and at its end included:
// they never lead out of the tree. It returns the node, and the directory and the name
// under which it is. Where only the last name is missing, n is nil and the others say
// where it would be. The root has the name "" and no directory.
func (t *Tree) Find(path string) (dir *Node, name string, n *Node, err error) {
	stack, names, links := []*Node{t.Root}, strings.Split(path, "/"), 0
	for len(names) > 0 {
		name, names = names[0], names[1:]
		at := stack[len(stack)-1]
		switch name {
		case "", ".":
			continue
		case "..":
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		next := at.Child(name)
		switch {
		case next == nil:
			if !isEnd(names) {
				return nil, "", nil, fmt.Errorf("%q: %w", path, fs.ErrNotExist)
			}
			return at, name, nil, nil
		case next.Kind == Symlink:
			if links++; links > maxLinks {
				return nil, "", nil, fmt.Errorf("%q: too many symbolic links", path)
			}
			if strings.HasPrefix(next.Target, "/") {
				stack = stack[:1]
			}
			names = append(strings.Split(next.Target, "/"), names...)
		case next.Kind == Dir:
			stack = append(stack, next)
		case !isEnd(names):
			return nil, "", nil, fmt.Errorf("%q: %q is a %s, not a directory", path, name, next.Kind)
		default:
			return at, name, next, nil
		}
	}
	n = stack[len(stack)-1]
	if len(stack) == 1 {
		return nil, "", n, nil
	}
	dir = stack[len(stack)-2]
	for _, c := range dir.Children() {
		if c.Node == n {
			name = c.Name
		}
	}
	return dir, name, n, nil
}

// isEnd reports whether the rest of a path names nothing more.
func isEnd(names []string) bool {
	return !slices.ContainsFunc(names, func(s string) bool { return s != "" && s != "." })
}

// MakeDirs returns the directory at a path, and makes those that are missing with the mode
// and the time, for root. Directories that get an entry have the time, too.
func (t *Tree) MakeDirs(path string, mode uint16, when time.Time) (*Node, error) {
	done := ""
	dir := t.Root
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." {
			continue
		}
		done += "/" + part
		at, name, n, err := t.Find(done)
		if err != nil {
			return nil, err
		}
		if n == nil {
			n = NewDir(mode)
			n.ModTime = when
			if err := at.Set(name, n); err != nil {
				return nil, fmt.Errorf("%q: %w", done, err)
			}
			at.ModTime = when
		}
		if n.Kind != Dir {
			return nil, fmt.Errorf("%q is a %s, not a directory", done, n.Kind)
		}
		dir = n
	}
	return dir, nil
}

// PutFile gives the file at a path a content and a time, as writing to it does: one that
// is there keeps its mode and owner, under all its names, but not its capabilities; else
// there is a new one with mode 0644 of root, in directories that are made as MakeDirs does.
func (t *Tree) PutFile(path string, content []byte, when time.Time) (*Node, error) {
	parent := path[:strings.LastIndexByte(path, '/')+1]
	if _, err := t.MakeDirs(parent, 0o755, when); err != nil {
		return nil, err
	}
	dir, name, n, err := t.Find(path)
	if err != nil {
		return nil, err
	}
	if n == nil {
		n = &Node{Kind: File, Mode: 0o644}
		if err := dir.Set(name, n); err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		dir.ModTime = when
	}
	if n.Kind != File {
		return nil, fmt.Errorf("%q is a %s, not a file", path, n.Kind)
	}
	kept := []Xattr{}
	for _, x := range n.Xattrs {
		if x.Name != "security.capability" {
			kept = append(kept, x)
		}
	}
	n.SetXattrs(kept)
	n.Size, n.Content, n.ModTime = int64(len(content)), Bytes(content), when
	return n, nil
}

// Delete takes what is at a path out of the tree, with all below it; a symbolic link at
// the end is not followed. It reports whether there was something. The root is emptied.
func (t *Tree) Delete(path string, when time.Time) bool {
	path = strings.TrimRight(path, "/")
	i := strings.LastIndexByte(path, '/')
	_, _, dir, err := t.Find(path[:i+1])
	switch name := path[i+1:]; {
	case err != nil || dir == nil || dir.Kind != Dir:
		return false
	case name == "" || name == ".":
		for _, c := range dir.Children() {
			dir.Remove(c.Name)
		}
	case dir.Child(name) == nil:
		return false
	default:
		dir.Remove(name)
	}
	dir.ModTime = when
	return true
}

// ReadFile returns the content of the file at a path, which must not be longer than limit
// bytes.
func (t *Tree) ReadFile(path string, limit int64) ([]byte, error) {
	_, _, n, err := t.Find(path)
	switch {
	case err != nil:
		return nil, err
	case n == nil:
		return nil, fmt.Errorf("%q: %w", path, fs.ErrNotExist)
	case n.Kind != File:
		return nil, fmt.Errorf("%q is a %s, not a file", path, n.Kind)
	case n.Size > limit:
		return nil, fmt.Errorf("%q has %d bytes: %w of %d", path, n.Size, ErrLimit, limit)
	}
	r, err := n.OpenContent()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, n.Size)
	if err := readFull(r, b, 0); err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return b, nil
}

// FromFile returns a node of a regular file of the machine, with the contract of FromDir;
// a symbolic link is followed.
func FromFile(path string) (*Node, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	n := &Node{Kind: File, Mode: uint16(info.Mode().Perm()), ModTime: info.ModTime(), Size: info.Size()}
	n.Content = &hostFile{path, n.Size, info}
	return n, nil
}
