package fstree_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/fstree/treetest"
)

func TestCompareSeesEachDifference(t *testing.T) {
	base := func() *fstree.Node {
		root := fstree.NewDir(0o755)
		f := &fstree.Node{Kind: fstree.File, Mode: 0o644, Size: 3, Content: fstree.Bytes("abc"), Xattrs: []fstree.Xattr{{Name: "user.a", Value: []byte("1")}}}
		for name, n := range map[string]*fstree.Node{"f": f, "g": f, "s": {Kind: fstree.Symlink, Target: "t"}, "c": {Kind: fstree.CharDevice, Major: 1}} {
			if err := root.Set(name, n); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	for name, change := range map[string]func(root *fstree.Node){
		"mode":    func(r *fstree.Node) { r.Child("f").Mode = 0 },
		"owner":   func(r *fstree.Node) { r.Child("f").UID = 1 },
		"group":   func(r *fstree.Node) { r.GID = 1 },
		"time":    func(r *fstree.Node) { r.Child("s").ModTime = time.Unix(1, 0) },
		"content": func(r *fstree.Node) { r.Child("f").Content = fstree.Bytes("abd") },
		"size":    func(r *fstree.Node) { r.Child("f").Size = 2 },
		"value":   func(r *fstree.Node) { r.Child("f").Xattrs[0].Value[0] = '2' },
		"attribute more": func(r *fstree.Node) {
			r.Child("f").SetXattrs(append(r.Child("f").Xattrs, fstree.Xattr{Name: "user.b"}))
		},
		"attribute less": func(r *fstree.Node) { r.Child("f").SetXattrs(nil) },
		"target":         func(r *fstree.Node) { r.Child("s").Target = "u" },
		"device":         func(r *fstree.Node) { r.Child("c").Minor = 3 },
		"kind":           func(r *fstree.Node) { r.Child("c").Kind = fstree.BlockDevice },
		"link":           func(r *fstree.Node) { c := *r.Child("f"); r.Set("g", &c) },
		"more":           func(r *fstree.Node) { r.Set("h", fstree.NewDir(0)) },
		"less":           func(r *fstree.Node) { r.Remove("s") },
	} {
		changed := base()
		change(changed)
		if diff, err := (fstree.Comparison{}).Compare(base(), changed); len(diff) == 0 || err != nil {
			t.Errorf("%s: %q %v", name, diff, err)
		}
	}
	treetest.Equal(t, "same", base(), base(), fstree.Comparison{})
}

func TestSparseContent(t *testing.T) {
	c := fstree.Sparse(strings.NewReader("..abcde"), 20, []fstree.Piece{{Extent: fstree.Extent{Start: 4, Length: 3}, At: 2}, {Extent: fstree.Extent{Start: 10, Length: 2}, At: 5}})
	want := []byte("\x00\x00\x00\x00abc\x00\x00\x00de\x00\x00\x00\x00\x00\x00\x00\x00")
	r, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	for off := range int64(20) {
		for n := int64(1); off+n <= 20; n++ {
			got := bytes.Repeat([]byte{0xff}, int(n))
			if k, err := r.ReadAt(got, off); k != int(n) || err != nil || !bytes.Equal(got, want[off:off+n]) {
				t.Fatalf("%d bytes at %d: %q %d %v", n, off, got, k, err)
			}
		}
	}
	if n, err := r.ReadAt(make([]byte, 5), 18); n != 2 || err == nil {
		t.Errorf("beyond the end: %d %v", n, err)
	}
	for off, want := range map[int64][2]int64{0: {4, 7}, 5: {5, 7}, 7: {10, 12}, 12: {20, 20}, 20: {20, 20}} {
		if s, e, _ := r.NextData(off); s != want[0] || e != want[1] {
			t.Errorf("data after %d: %d to %d", off, s, e)
		}
	}
}

func TestNamesThatNoDirectoryTakes(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "a\x00", strings.Repeat("n", 256)} {
		if fstree.NewDir(0).Set(name, fstree.NewDir(0)) == nil {
			t.Errorf("%q is taken", name)
		}
	}
}

func TestChangedFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := fstree.FromDir(dir, fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := content(tree.Root.Child("f")); got != "one" {
		t.Fatal(got)
	}
	if err := os.WriteFile(path, []byte("longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Root.Child("f").OpenContent(); err == nil {
		t.Error("a file that has changed is read")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", path); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Root.Child("f").OpenContent(); err == nil {
		t.Error("a link in place of a file is followed")
	}
}

func TestPseudo(t *testing.T) {
	tree := fstree.New()
	err := tree.ApplyPseudo(strings.NewReader(`# devices
dev d 755 0 0
dev/null c 666 0 3 1 3
/dev/sda b 640 0 6 8 16
"with space"/p i 600 5 5 p
back\ slash i 600 5 5 s
sh s 777 0 0 bin/ba sh
dev m 1700 9 10
dev x user.a=b=c
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := paths(tree.Root); !slices.Equal(got, []string{"back slash", "dev/", "dev/null", "dev/sda", "sh->bin/ba sh", "with space/", "with space/p"}) {
		t.Errorf("%q", got)
	}
	null, dev := tree.Root.Lookup("dev/null"), tree.Root.Lookup("dev")
	if null.Kind != fstree.CharDevice || null.Major != 1 || null.Minor != 3 || null.GID != 3 || null.Mode != 0o666 {
		t.Errorf("%+v", null)
	}
	if v, _ := dev.Xattr("user.a"); dev.Mode != 0o1700 || dev.UID != 9 || dev.GID != 10 || string(v) != "b=c" {
		t.Errorf("%+v", dev)
	}
	for _, bad := range []string{"a", "a d 9 0 0", "a d 755 x 0", "../a d 755 0 0", "a c 600 0 0 1", "a f 600 0 0 ls", "missing m 600 0 0", "a i 600 0 0 q", "missing x a=b", "a d 755 0 0 more"} {
		if err := fstree.New().ApplyPseudo(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestClampTimes(t *testing.T) {
	tree := fstree.New()
	old, young := fstree.NewDir(0), fstree.NewDir(0)
	old.ModTime, young.ModTime = time.Unix(5, 1), time.Unix(10, 1)
	for name, n := range map[string]*fstree.Node{"old": old, "young": young} {
		if err := tree.Root.Set(name, n); err != nil {
			t.Fatal(err)
		}
	}
	tree.ClampTimes(time.Unix(10, 0))
	if old.ModTime != time.Unix(5, 1) || young.ModTime != time.Unix(10, 0) {
		t.Errorf("%v %v", old.ModTime, young.ModTime)
	}
}
