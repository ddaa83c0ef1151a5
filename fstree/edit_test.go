package fstree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// editTree has links that lead up, round and nowhere.
func editTree(t *testing.T) *Tree {
	t.Helper()
	tree := New()
	add := func(path string, n *Node) {
		b := &builder{tree: tree, use: NewMeter(Limits{})}
		if err := b.add(path, n); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target string) *Node { return &Node{Kind: Symlink, Mode: 0o777, Target: target} }
	add("usr/lib/f", &Node{Kind: File, Mode: 0o4755, UID: 7, Size: 3, Content: Bytes("abc"),
		Xattrs: []Xattr{{"security.capability", []byte("x")}, {"user.a", []byte("y")}}})
	add("lib", link("usr/lib"))
	add("abs", link("/usr/../../lib"))
	add("out", link("../../../etc/new"))
	add("etc", NewDir(0o755))
	add("loop", link("loop"))
	add("fifo", &Node{Kind: FIFO})
	return tree
}

func TestFind(t *testing.T) {
	tree := editTree(t)
	f := tree.Root.Lookup("usr/lib/f")
	for path, want := range map[string]*Node{"usr/lib/f": f, "/lib/f": f, "abs/f/": f, "/": tree.Root, "lib/..": tree.Root.Lookup("usr"),
		"../../lib/./f": f, "out": nil, "usr/x": nil, "usr/x/": nil} {
		dir, name, n, err := tree.Find(path)
		if err != nil || n != want {
			t.Errorf("%q: %v, %v", path, n, err)
		} else if n != tree.Root && (dir == nil || dir.Child(name) != n) {
			t.Errorf("%q: not at %q of its directory", path, name)
		}
	}
	if dir, name, _, _ := tree.Find("out"); dir != tree.Root.Lookup("etc") || name != "new" {
		t.Errorf("a link out of the tree leads to %q of %v", name, dir)
	}
	for _, path := range []string{"loop", "loop/a", "fifo/a", "usr/x/y", "usr/x/..", "usr/lib/f/.."} {
		if _, _, n, err := tree.Find(path); err == nil {
			t.Errorf("%q: %v", path, n)
		}
	}
	if _, _, _, err := tree.Find("usr/x/y"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestPutFile(t *testing.T) {
	tree, when := editTree(t), time.Unix(5, 6)
	n, err := tree.PutFile("/abs/f", []byte("longer"), when)
	if err != nil || n != tree.Root.Lookup("usr/lib/f") || n.Mode != 0o4755 || n.UID != 7 || n.Size != 6 || !n.ModTime.Equal(when) || len(n.Xattrs) != 1 || n.Xattrs[0].Name != "user.a" {
		t.Errorf("%+v, %v", n, err)
	}
	if text, err := tree.ReadFile("lib/f", 6); err != nil || string(text) != "longer" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := tree.ReadFile("lib/f", 5); !errors.Is(err, ErrLimit) {
		t.Error(err)
	}
	if n, err = tree.PutFile("out", []byte("x"), when); err != nil || n != tree.Root.Lookup("etc/new") || n.Mode != 0o644 || !tree.Root.Lookup("etc").ModTime.Equal(when) {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err = tree.PutFile("lib/a/b/c", nil, when); err != nil || n != tree.Root.Lookup("usr/lib/a/b/c") || tree.Root.Lookup("usr/lib/a").Mode != 0o755 {
		t.Errorf("%+v, %v", n, err)
	}
	for _, path := range []string{"fifo", "lib", "loop", "fifo/x", ""} {
		if _, err := tree.PutFile(path, nil, when); err == nil {
			t.Errorf("%q: written", path)
		}
	}
	for _, path := range []string{"usr/no", "fifo", "lib"} {
		if _, err := tree.ReadFile(path, 100); err == nil {
			t.Errorf("%q: read", path)
		}
	}
}

func TestDelete(t *testing.T) {
	tree, when := editTree(t), time.Unix(5, 6)
	if !tree.Delete("lib", when) || tree.Root.Child("lib") != nil || tree.Root.Lookup("usr/lib/f") == nil || !tree.Root.ModTime.Equal(when) {
		t.Error("a link was followed, or kept")
	}
	if tree.Delete("no", when) || tree.Delete("no/no", when) || tree.Delete("fifo/x", when) {
		t.Error("what is not there was deleted")
	}
	if !tree.Delete("/usr/lib/f/", when) || tree.Root.Lookup("usr/lib/f") != nil {
		t.Error("a file was kept")
	}
	if !tree.Delete("/", when) || tree.Root.Len() != 0 {
		t.Error("the root was not emptied")
	}
}

func TestFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("abc"), 0o640); err != nil {
		t.Fatal(err)
	}
	n, err := FromFile(path)
	if err != nil || n.Kind != File || n.Size != 3 {
		t.Fatalf("%+v, %v", n, err)
	}
	tree := New()
	if err := tree.Root.Set("f", n); err != nil {
		t.Fatal(err)
	}
	if text, err := tree.ReadFile("f", 3); err != nil || string(text) != "abc" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := FromFile(filepath.Dir(path)); err == nil {
		t.Error("a directory is taken for a file")
	}
}
