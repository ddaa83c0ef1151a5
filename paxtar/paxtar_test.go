package paxtar_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/fstree/treetest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/paxtar"
)

func write(t testing.TB, o paxtar.Options, prefix string, root *fstree.Node) []byte {
	t.Helper()
	var out bytes.Buffer
	w := paxtar.NewWriter(&out, o)
	if err := w.AddTree(prefix, root); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if out.Len()%10240 != 0 {
		t.Errorf("%d bytes are no whole records", out.Len())
	}
	return out.Bytes()
}

// shape is what archives hold.
func shape() treetest.Shape {
	s := treetest.Any()
	s.Times = func(r *rand.Rand) time.Time {
		if r.IntN(10) == 0 {
			return time.Unix(-1e9+r.Int64N(1e9), r.Int64N(1e9))
		}
		return treetest.Times(r)
	}
	return s
}

func tree(seed uint64) *fstree.Node {
	root := treetest.Random(seed, shape())
	removeSockets(root)
	return root
}

func removeSockets(dir *fstree.Node) {
	for _, c := range dir.Children() {
		if c.Node.Kind == fstree.Socket {
			dir.Remove(c.Name)
		} else if c.Node.Kind == fstree.Dir {
			removeSockets(c.Node)
		}
	}
}

func seeds() uint64 { return uint64(testkit.Count(20)) }

func TestRoundTrip(t *testing.T) {
	for seed := range seeds() {
		root := tree(seed)
		for _, sparse := range []bool{false, true} {
			b := write(t, paxtar.Options{Sparse: sparse}, "./", root)
			got, err := fstree.FromTar(bytes.NewReader(b), fstree.Options{TempDir: t.TempDir()})
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			treetest.Equal(t, fmt.Sprintf("seed %d, sparse %v", seed, sparse), root, got.Root, fstree.Comparison{})
			got.Close()
		}
	}
}

// TestTar unpacks our archives with GNU tar.
func TestTar(t *testing.T) {
	testkit.Root(t)
	for seed := range seeds() {
		if !testkit.Sample(int(seed), 3) {
			continue
		}
		root := tree(seed)
		for _, sparse := range []bool{false, true} {
			dir, path := t.TempDir(), filepath.Join(t.TempDir(), "a.tar")
			if err := os.WriteFile(path, write(t, paxtar.Options{Sparse: sparse}, "rootfs/", root), 0o600); err != nil {
				t.Fatal(err)
			}
			testkit.Run(t, "tar", "--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-p", "-C", dir, "-xf", path)
			got, err := fstree.FromDir(filepath.Join(dir, "rootfs"), fstree.Options{})
			if err != nil {
				t.Fatal(err)
			}
			treetest.Equal(t, fmt.Sprintf("seed %d, sparse %v", seed, sparse), root, got.Root, fstree.Comparison{})
		}
	}
}

func TestNoNeedlessRecords(t *testing.T) {
	root := fstree.NewDir(0o755)
	put := func(name string, n *fstree.Node) {
		if err := root.Set(name, n); err != nil {
			t.Fatal(err)
		}
	}
	put("f", &fstree.Node{Kind: fstree.File, Size: 3, Content: fstree.Bytes("abc"), ModTime: time.Unix(1e9, 5e8), UID: 1<<21 - 1})
	b := write(t, paxtar.Options{Seconds: true}, "", root)
	if bytes.Contains(b, []byte("PaxHeaders")) || string(b[:2]) != "f\x00" {
		t.Error("records where none is needed")
	}
	if got := string(b[136:147]); got != fmt.Sprintf("%011o", int(1e9)) {
		t.Errorf("time %q", got)
	}
	put("f", &fstree.Node{Kind: fstree.File, ModTime: time.Unix(-1, 25e7), UID: 1 << 21, Xattrs: []fstree.Xattr{{Name: "user.a=%b", Value: []byte("v\n\x00")}}})
	b = write(t, paxtar.Options{}, "", root)
	for _, want := range []string{"15 uid=2097152\n", "15 mtime=-0.75\n", " SCHILY.xattr.user.a%3D%25b=v\n\x00\n"} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("no record %q", want)
		}
	}
	got, err := fstree.FromTar(bytes.NewReader(b), fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	treetest.Equal(t, "strange values", root.Child("f"), got.Root.Child("f"), fstree.Comparison{})
}

// TestSparse: a terabyte of holes is a small archive.
func TestSparse(t *testing.T) {
	root := fstree.NewDir(0o755)
	size := int64(1) << 40
	data := binary.LittleEndian.AppendUint64(nil, 0x1122334455667788)
	n := &fstree.Node{Kind: fstree.File, Size: size, Content: fstree.Sparse(bytes.NewReader(data), size, []fstree.Piece{{Extent: fstree.Extent{Start: 1 << 30, Length: 8}}})}
	if err := root.Set(strings.Repeat("n", 200), n); err != nil {
		t.Fatal(err)
	}
	b := write(t, paxtar.Options{Sparse: true}, "", root)
	if len(b) > 10240 {
		t.Errorf("%d bytes", len(b))
	}
	path := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := testkit.Run(t, "tar", "-tvf", path); !strings.Contains(out, " 1099511627776 ") || !strings.Contains(out, strings.Repeat("n", 200)+"\n") {
		t.Errorf("%q", out)
	}
}

func TestErrors(t *testing.T) {
	for name, n := range map[string]*fstree.Node{
		"short content": {Kind: fstree.File, Size: 5, Content: fstree.Bytes("abc")},
		"device":        {Kind: fstree.CharDevice, Major: 1 << 21},
		"nothing":       {},
	} {
		for _, sparse := range []bool{false, true} {
			w := paxtar.NewWriter(&bytes.Buffer{}, paxtar.Options{Sparse: sparse})
			if w.Add("x", n) == nil || w.Close() == nil {
				t.Errorf("%s: taken", name)
			}
		}
	}
	w := paxtar.NewWriter(&bytes.Buffer{}, paxtar.Options{})
	if err := w.Add("s", &fstree.Node{Kind: fstree.Socket}); err != nil || len(w.Lost()) != 1 {
		t.Errorf("socket: %v %q", err, w.Lost())
	}
	if w.Close() != nil || w.Add("x", fstree.NewDir(0)) == nil {
		t.Error("an entry after the end")
	}
}
