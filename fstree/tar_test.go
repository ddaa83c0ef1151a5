package fstree_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/fstree/treetest"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// archive makes a tar archive of headers; a name with a colon is NAME:CONTENT.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		name, content, _ := strings.Cut(h.Name, ":")
		h.Name, h.Size = name, int64(len(content))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// paths lists a tree: directories with a slash at the end, links with their targets.
func paths(root *fstree.Node) (list []string) {
	for path, n := range root.Walk() {
		switch n.Kind {
		case fstree.Dir:
			path += "/"
		case fstree.Symlink:
			path += "->" + n.Target
		case fstree.File:
			path += ":" + content(n)
		}
		list = append(list, path)
	}
	return list[1:]
}

func content(n *fstree.Node) string {
	r, err := n.OpenContent()
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, n.Size))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func fromBytes(b []byte, o fstree.Options) (*fstree.Tree, error) {
	return fstree.FromTar(bytes.NewReader(b), o)
}

// TestAgainstTar reads what GNU tar packs, in each of its formats and compressed, from
// files and from pipes, beside the folder that it packed.
func TestAgainstTar(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
	testkit.Root(t)
	testkit.Tool(t, "tar")
	shape := treetest.Any()
	shape.Namespaces = []string{"user.", "trusted."}
	for seed := range uint64(6) {
		if !testkit.Sample(int(seed), 3) {
			continue
		}
		tree := treetest.Random(seed, shape)
		asTar(tree)
		dir := filepath.Join(t.TempDir(), "root")
		treetest.Unpack(t, tree, dir)
		folder, err := fstree.FromDir(dir, fstree.Options{})
		if err != nil {
			t.Fatal(err)
		}
		treetest.Equal(t, "folder", tree, folder.Root, fstree.Comparison{})
		for _, variant := range []struct {
			args []string
			unit time.Duration
			pipe bool
		}{
			{args: []string{"--format=pax"}},
			{args: []string{"--format=pax", "-S", "--sparse-version=0.0"}},
			{args: []string{"--format=pax", "-S", "--sparse-version=0.1"}},
			{args: []string{"--format=pax", "-S", "--sparse-version=1.0"}, pipe: true},
			{args: []string{"--format=gnu", "-S"}, unit: time.Second},
			{args: []string{"--format=pax", "-z"}},
			{args: []string{"--format=pax", "-j"}},
			{args: []string{"--format=pax", "-J"}, pipe: true},
			{args: []string{"--format=pax", "--zstd"}},
			{args: []string{"--format=pax", "-Ilz4"}},
			{args: []string{"--format=pax", "--lzma"}},
		} {
			path := filepath.Join(t.TempDir(), "a.tar")
			args := append(variant.args, "-C", dir, "-cf", path, ".")
			if variant.unit == 0 {
				args = append([]string{"--xattrs", "--xattrs-include=*"}, args...)
			}
			if out, err := exec.Command("tar", args...).CombinedOutput(); err != nil {
				t.Logf("tar %v: %v %s", variant.args, err, out) // a program is not installed
				continue
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			r := io.Reader(f)
			if variant.pipe {
				r = struct{ io.Reader }{f}
			}
			got, err := fstree.FromTar(r, fstree.Options{TempDir: t.TempDir()})
			if err != nil {
				t.Fatalf("%v: %v", variant.args, err)
			}
			pax := variant.unit == 0
			treetest.Equal(t, strings.Join(variant.args, " "), tree, got.Root, fstree.Comparison{TimeUnit: variant.unit, Ignore: func(_ string, n *fstree.Node) {
				if !pax {
					n.Xattrs = nil
				}
			}})
			got.Close()
			f.Close()
		}
	}
}

// asTar makes of a tree what GNU tar packs of it: no sockets, and no links of devices.
func asTar(dir *fstree.Node) {
	for _, c := range dir.Children() {
		switch c.Node.Kind {
		case fstree.Socket:
			dir.Remove(c.Name)
		case fstree.Dir:
			asTar(c.Node)
		case fstree.CharDevice, fstree.BlockDevice, fstree.FIFO:
			alone := *c.Node
			dir.Set(c.Name, &alone)
		}
	}
}

func TestHostileArchives(t *testing.T) {
	dir := tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755}
	for name, headers := range map[string][]tar.Header{
		"up":                   {{Name: "../x:1"}},
		"up in the middle":     {{Name: "a/../../x:1"}},
		"up within":            {{Name: "a/../x:1"}},
		"link up":              {{Name: "l", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}},
		"link to nothing":      {{Name: "l", Typeflag: tar.TypeLink, Linkname: "missing"}},
		"link to a directory":  {dir, {Name: "l", Typeflag: tar.TypeLink, Linkname: "d"}},
		"link to the root":     {{Name: "l", Typeflag: tar.TypeLink, Linkname: "."}},
		"file as a directory":  {{Name: "f:1"}, {Name: "f/g:2"}},
		"file over directory":  {{Name: "d/f:1"}, {Name: "d:2"}},
		"root is a file":       {{Name: ".:x"}},
		"loop of links":        {{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"}, {Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"}, {Name: "a/x:1"}},
		"long name":            {{Name: strings.Repeat("n", 256) + ":1"}},
		"empty symbolic link":  {{Name: "s", Typeflag: tar.TypeSymlink}},
		"negative owner":       {{Name: "o:1", Uid: -1, Format: tar.FormatGNU}},
		"strange xattr":        {{Name: "x:1", PAXRecords: map[string]string{"SCHILY.xattr." + strings.Repeat("n", 256): "v"}}},
		"volume of an archive": {{Name: "m", Typeflag: 'M'}},
	} {
		if _, err := fromBytes(archive(t, headers...), fstree.Options{}); err == nil {
			t.Errorf("%s: taken", name)
		} else if !errors.Is(err, fstree.ErrHostile) && name != "volume of an archive" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	deep := tar.Header{Name: strings.Repeat("d/", 30) + "f:1"}
	// many short names in a place with a long one, which is reached by a link
	below := strings.Repeat(strings.Repeat("d", 200)+"/", 15)
	paths := []tar.Header{{Name: below, Typeflag: tar.TypeDir}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: below}}
	for i := range 20 {
		paths = append(paths, tar.Header{Name: fmt.Sprintf("l/%d", i)})
	}
	for name, c := range map[string]struct {
		headers []tar.Header
		limits  fstree.Limits
		pipe    bool
	}{
		"depth":    {[]tar.Header{deep}, fstree.Limits{Depth: 20}, false},
		"bytes":    {[]tar.Header{{Name: "a:12345"}, {Name: "b:12345"}}, fstree.Limits{Bytes: 9}, false},
		"spool":    {[]tar.Header{{Name: "a:12345"}, {Name: "b:12345"}}, fstree.Limits{Spool: 9}, true},
		"memory":   {[]tar.Header{{Name: "a:12345"}, {Name: "b:12345"}}, fstree.Limits{Memory: 300}, false},
		"paths":    {paths, fstree.Limits{Memory: 45_000}, false},
		"implicit": {[]tar.Header{deep}, fstree.Limits{Memory: 3000}, false},
		"xattrs":   {[]tar.Header{{Name: "a:1", PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("v", 5000)}}}, fstree.Limits{Memory: 3000}, false},
	} {
		b := archive(t, c.headers...)
		r := io.Reader(bytes.NewReader(b))
		if c.pipe {
			r = struct{ io.Reader }{r}
		}
		if _, err := fstree.FromTar(r, fstree.Options{Limits: c.limits, TempDir: t.TempDir()}); !errors.Is(err, fstree.ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
		if tree, err := fromBytes(b, fstree.Options{}); err != nil {
			t.Errorf("%s without limits: %v", name, err)
		} else {
			tree.Close()
		}
	}
}

func TestCutArchives(t *testing.T) {
	whole := archive(t, tar.Header{Name: "a:" + strings.Repeat("x", 2000)}, tar.Header{Name: "b:" + strings.Repeat("y", 700)})
	for _, cut := range []int{0, 100, 600, 2500, 3200, 3700} {
		for _, pipe := range []bool{false, true} {
			r := io.Reader(bytes.NewReader(whole[:cut]))
			if pipe {
				r = struct{ io.Reader }{r}
			}
			if tree, err := fstree.FromTar(r, fstree.Options{TempDir: t.TempDir()}); err == nil {
				t.Errorf("cut at %d (pipe %v): taken: %d entries", cut, pipe, tree.Root.Len())
			}
		}
	}
}

// TestLinksOnTheWay: an entry below a symbolic link lies where the link leads inside the
// tree, also for links that would lead out of it.
func TestLinksOnTheWay(t *testing.T) {
	tree, err := fromBytes(archive(t,
		tar.Header{Name: "usr/lib/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"},
		tar.Header{Name: "lib/a:1"},
		tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../../../usr"},
		tar.Header{Name: "out/b:2"},
		tar.Header{Name: "abs", Typeflag: tar.TypeSymlink, Linkname: "/usr/lib"},
		tar.Header{Name: "/abs/c:3"},
		tar.Header{Name: "usr/hard", Typeflag: tar.TypeLink, Linkname: "abs/a"},
	), fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"abs->/usr/lib", "lib->usr/lib", "out->../../../usr", "usr/", "usr/b:2", "usr/hard:1", "usr/lib/", "usr/lib/a:1", "usr/lib/c:3"}
	if got := paths(tree.Root); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if tree.Root.Lookup("usr/hard") != tree.Root.Lookup("usr/lib/a") {
		t.Error("the hard link is a file of its own")
	}
	if n := tree.Root.Lookup("usr/lib"); n.Mode != 0o700 {
		t.Errorf("mode %o", n.Mode)
	}
}

// TestNamesLikeMagics: an archive is not taken for a compressed stream.
func TestNamesLikeMagics(t *testing.T) {
	for _, name := range []string{"]", "BZh", "\x1f\x8b"} {
		b := archive(t, tar.Header{Name: name + ":1", Format: tar.FormatGNU})
		for _, r := range []io.Reader{bytes.NewReader(b), struct{ io.Reader }{bytes.NewReader(b)}} {
			tree, err := fstree.FromTar(r, fstree.Options{TempDir: t.TempDir()})
			if err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			if tree.Root.Child(name) == nil {
				t.Errorf("%q is not there", name)
			}
			tree.Close()
		}
	}
}

func TestLaterEntriesReplace(t *testing.T) {
	tree, err := fromBytes(archive(t,
		tar.Header{Name: "f:old"}, tar.Header{Name: "f:new"},
		tar.Header{Name: "d/x:1"}, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o710, Uid: 7},
		tar.Header{Name: "a", PAXRecords: map[string]string{"SCHILY.xattr.user.b": "2", "SCHILY.xattr.user.a": "1", "LIBARCHIVE.xattr.user.c%25": "Mw"}},
	), fstree.Options{Owner: &fstree.Owner{UID: 5, GID: 6}})
	if err != nil {
		t.Fatal(err)
	}
	if got := paths(tree.Root); !slices.Equal(got, []string{"a:", "d/", "d/x:1", "f:new"}) {
		t.Errorf("%q", got)
	}
	if n := tree.Root.Lookup("d"); n.Mode != 0o710 || n.UID != 5 || n.GID != 6 {
		t.Errorf("%+v", n)
	}
	var names []string
	for _, x := range tree.Root.Lookup("a").Xattrs {
		names = append(names, x.Name+"="+string(x.Value))
	}
	if !slices.Equal(names, []string{"user.a=1", "user.b=2", "user.c%=3"}) {
		t.Errorf("%q", names)
	}
}

func FuzzFromTar(f *testing.F) {
	f.Add(archive(f, tar.Header{Name: "a/b:text", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "a/b"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		limits := fstree.Limits{Memory: 1 << 20, Bytes: 1 << 22, Spool: 1 << 20}
		for _, r := range []io.Reader{bytes.NewReader(b), struct{ io.Reader }{bytes.NewReader(b)}} {
			tree, err := fstree.FromTar(r, fstree.Options{Limits: limits, TempDir: t.TempDir()})
			if err != nil {
				continue
			}
			for path, n := range tree.Root.Walk() {
				if strings.Contains("/"+path+"/", "/../") {
					t.Errorf("%q", path)
				}
				if n.Kind == fstree.File {
					content(n)
				}
			}
			tree.Close()
		}
	})
}
