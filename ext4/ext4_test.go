package ext4_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/ext4"
	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/fstree/treetest"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// write makes a file system in a file.
func write(t testing.TB, root *fstree.Node, o ext4.Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := ext4.Write(context.Background(), f, root, o)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != r.Size {
		t.Errorf("the file has %d bytes, the report says %d, asked for %d", info.Size(), r.Size, o.Size)
	}
	return path
}

// check fails where e2fsck finds anything.
func check(t testing.TB, what, path string) {
	t.Helper()
	out, errOut, code := testkit.Try(t, "e2fsck", "-fn", path)
	if code != 0 {
		t.Errorf("%s: e2fsck: %d\n%.2000s%s", what, code, out, errOut)
	}
}

// mount mounts a file system, read and write, for the time of the test.
func mount(t testing.TB, path string) string {
	t.Helper()
	dir := t.TempDir()
	if _, errOut, code := testkit.Try(t, "mount", "-t", "ext4", "-o", "loop", path, dir); code != 0 {
		t.Skipf("cannot mount ext4 here: %s", strings.TrimSpace(errOut))
	}
	t.Cleanup(func() {
		if _, errOut, code := testkit.Try(t, "umount", dir); code != 0 {
			t.Errorf("umount: %s", errOut)
		}
	})
	return dir
}

// unmount unmounts a file system, whose file then holds all that was written. A copy of the mount
// in a namespace that another process made meanwhile would keep it from that: it is made
// read-only first.
func unmount(t testing.TB, dir string) {
	t.Helper()
	testkit.Run(t, "mount", "-o", "remount,ro", dir)
	testkit.Run(t, "umount", dir)
}

func shape() treetest.Shape {
	s := treetest.Any()
	s.Times = func(r *rand.Rand) time.Time {
		if r.IntN(5) == 0 {
			return time.Unix(-1<<31+r.Int64N(1<<34), r.Int64N(1e9))
		}
		return treetest.Times(r)
	}
	return s
}

// withACL gives some nodes an access control list.
func withACL(root *fstree.Node) *fstree.Node {
	le := binary.LittleEndian
	acl := le.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 7, 1<<32 - 1}, {2, 5, 1234}, {4, 4, 1<<32 - 1}, {8, 1, 70000}, {0x10, 7, 1<<32 - 1}, {0x20, 1, 1<<32 - 1}} {
		acl = le.AppendUint16(acl, uint16(e[0]))
		acl = le.AppendUint16(acl, uint16(e[1]))
		acl = le.AppendUint32(acl, e[2])
	}
	i := 0
	for _, n := range root.Walk() {
		if i++; i%5 != 0 || n.Kind != fstree.File && n.Kind != fstree.Dir {
			continue
		}
		n.Mode = n.Mode&^0o777 | 0o771
		list := append(n.Xattrs, fstree.Xattr{Name: "system.posix_acl_access", Value: acl})
		if n.Kind == fstree.Dir {
			list = append(list, fstree.Xattr{Name: "system.posix_acl_default", Value: acl})
		}
		n.SetXattrs(list)
	}
	return root
}

func variant(seed uint64) ext4.Options {
	o := []ext4.Options{{Size: 64 << 20, Label: "rootfs"}, {Size: 6 << 20}, {Size: 3<<30 + 12345, BytesPerInode: 8192, ResizeLimit: 2 << 40},
		{Size: 129 << 20, BytesPerInode: 1024, ReservedPercent: 5}, {Size: 200 << 20, NoJournal: true, UUID: [16]byte{1, 2}, HashSeed: [16]byte{3}}}[seed%5]
	return o
}

func seeds() uint64 { return uint64(testkit.Count(15)) }

func tree(seed uint64) *fstree.Node { return withACL(treetest.Random(seed, shape())) }

// compare ignores the directory that is always made.
func compare(t testing.TB, what string, want, got *fstree.Node) {
	t.Helper()
	if want.Child("lost+found") == nil {
		got.Remove("lost+found")
	}
	treetest.Equal(t, what, want, got, fstree.Comparison{})
}

func TestCheckedAndMounted(t *testing.T) {
	testkit.Tool(t, "e2fsck")
	for seed := range seeds() {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			root, o := tree(seed), variant(seed)
			path := write(t, root, o)
			what := fmt.Sprintf("seed %d, %+v", seed, o)
			check(t, what, path)
			if os.Geteuid() != 0 {
				return
			}
			dir := mount(t, path)
			got, err := fstree.FromDir(dir, fstree.Options{})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, what, root, got.Root)
		})
	}
}

// TestDebugfs reads the trees with debugfs, by the code of e2fsprogs instead of the kernel's:
// names, contents, permissions, owners and targets, which are what it copies.
func TestDebugfs(t *testing.T) {
	testkit.Root(t)
	testkit.Tool(t, "debugfs")
	for seed := range seeds() {
		root, o := tree(seed), variant(seed)
		path, dir := write(t, root, o), t.TempDir()
		if out, errOut, code := testkit.Try(t, "debugfs", "-R", "rdump / "+dir, path); code != 0 || strings.Contains(errOut, "rdump:") {
			t.Fatalf("seed %d: debugfs: %d %s %s", seed, code, out, errOut)
		}
		got, err := fstree.FromDir(dir, fstree.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []*fstree.Node{root, got.Root} {
			copied(r)
			r.Remove("lost+found")
		}
		treetest.Equal(t, fmt.Sprintf("debugfs, seed %d, %+v", seed, o), root, got.Root, fstree.Comparison{})
	}
}

// copied leaves of a tree what debugfs copies.
func copied(dir *fstree.Node) {
	dir.ModTime, dir.Xattrs, dir.Mode = time.Time{}, nil, dir.Mode&0o777
	for _, c := range dir.Children() {
		n := *c.Node
		switch n.Kind {
		case fstree.Dir:
			copied(c.Node)
			continue
		case fstree.File, fstree.Symlink:
			n.ModTime, n.Xattrs, n.Mode = time.Time{}, nil, n.Mode&0o777
			if n.Kind == fstree.Symlink {
				n.UID, n.GID = 0, 0
			}
			dir.Set(c.Name, &n)
		default:
			dir.Remove(c.Name)
		}
	}
}

// TestUsed writes to the mounted file system, grows it, and checks it again.
func TestUsed(t *testing.T) {
	testkit.Root(t)
	path := write(t, tree(1), ext4.Options{Size: 64 << 20})
	dir := mount(t, path)
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("new file %d", i)), bytes.Repeat([]byte{byte(i)}, 10000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unmount(t, dir)
	check(t, "after writing", path)
	if err := os.Truncate(path, 3<<30); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "resize2fs", path)
	check(t, "after growing", path)
	testkit.Run(t, "mount", "-t", "ext4", "-o", "loop", path, dir)
	if b, err := os.ReadFile(filepath.Join(dir, "new file 7")); err != nil || len(b) != 10000 || b[0] != 7 {
		t.Errorf("%d bytes %v", len(b), err)
	}
}

// TestGrowMounted grows a mounted file system, which needs the reserved descriptors.
func TestGrowMounted(t *testing.T) {
	testkit.Root(t)
	path := write(t, tree(2), ext4.Options{Size: 64 << 20})
	if err := os.Truncate(path, 9<<30); err != nil {
		t.Fatal(err)
	}
	dir := mount(t, path)
	dev := strings.Fields(testkit.Run(t, "findmnt", "-n", "-o", "SOURCE", dir))[0]
	if _, errOut, code := testkit.Try(t, "resize2fs", dev); strings.Contains(errOut, "Permission denied") {
		t.Skip("this kernel lets nobody resize a mounted file system here")
	} else if code != 0 {
		t.Errorf("resize2fs: %s", errOut)
	}
	unmount(t, dir)
	check(t, "after growing", path)
	testkit.Run(t, "mount", "-t", "ext4", "-o", "loop", path, dir)
}

// TestLargeDirectory has an index of two levels. Names are looked up through it.
func TestLargeDirectory(t *testing.T) {
	root, many := fstree.NewDir(0o755), fstree.NewDir(0o755)
	put(t, root, "many", many)
	shared := &fstree.Node{Kind: fstree.FIFO, ModTime: time.Unix(1, 0)}
	const entries = 100_000 // blocks of names are more than one of the index holds
	name := func(i int) string { return fmt.Sprintf("a name ü of usual length \xff %06d", i) }
	for i := range entries {
		n := shared
		if i%10 == 0 {
			n = &fstree.Node{Kind: fstree.FIFO, ModTime: time.Unix(1, 0)}
		}
		if i%2000 == 1 {
			shared = &fstree.Node{Kind: fstree.FIFO, ModTime: time.Unix(1, 0)}
		}
		put(t, many, name(i), n)
	}
	path := write(t, root, ext4.Options{Size: 256 << 20})
	check(t, "large directory", path)
	if out := testkit.Run(t, "debugfs", "-R", "htree_dump /many", path); !strings.Contains(out, "Indirect levels: 1") {
		t.Errorf("%.500s", out)
	}
	if os.Geteuid() != 0 {
		return
	}
	dir := mount(t, path)
	for i := 0; i < entries; i += 37 {
		if _, err := os.Lstat(filepath.Join(dir, "many", name(i))); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := os.ReadDir(filepath.Join(dir, "many")); err != nil || len(list) != entries {
		t.Errorf("%d entries, %v", len(list), err)
	}
	for i := range 2000 { // the index is split
		if err := os.WriteFile(filepath.Join(dir, "many", fmt.Sprint("new", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unmount(t, dir)
	check(t, "with 2000 more", path)
	testkit.Run(t, "mount", "-t", "ext4", "-o", "loop", path, dir)
}

func put(t testing.TB, dir *fstree.Node, name string, n *fstree.Node) {
	t.Helper()
	if err := dir.Set(name, n); err != nil {
		t.Fatal(err)
	}
}

// TestManyExtents: files of pieces and holes, with trees of extents of each depth.
func TestManyExtents(t *testing.T) {
	root := fstree.NewDir(0o755)
	for _, count := range []int{4, 5, 340 * 4, 340*4 + 1} {
		var pieces []fstree.Piece
		for i := range count {
			pieces = append(pieces, fstree.Piece{Extent: fstree.Extent{Start: int64(i)*8192 + 10, Length: 3000}})
		}
		size := int64(count)*8192 + 100
		put(t, root, fmt.Sprint(count), &fstree.Node{Kind: fstree.File, Mode: 0o644, Size: size, Content: fstree.Sparse(strings.NewReader(strings.Repeat("data", 750)), size, pieces)})
	}
	size := int64(15) << 40
	put(t, root, "hole", &fstree.Node{Kind: fstree.File, Mode: 0o644, Size: size, Content: fstree.Sparse(strings.NewReader("end"), size, []fstree.Piece{{Extent: fstree.Extent{Start: size - 3, Length: 3}}})})
	path := write(t, root, ext4.Options{Size: 64 << 20})
	check(t, "extents", path)
	for _, name := range []string{"4", "5", "1360", "1361"} {
		r, err := root.Child(name).OpenContent()
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(io.NewSectionReader(r, 0, root.Child(name).Size))
		if err != nil {
			t.Fatal(err)
		}
		if got := testkit.Run(t, "debugfs", "-R", "cat /"+name, path); got != string(want) {
			t.Errorf("debugfs reads other bytes of the file with %s extents", name)
		}
	}
}

// TestFeatures: what mke2fs gives.
func TestFeatures(t *testing.T) {
	t.Setenv("TZ", "UTC")
	o := ext4.Options{Size: 1 << 30, Label: "rootfs", UUID: [16]byte{0xaa, 0xbb}, Time: time.Unix(1e9, 0)}
	out := testkit.Run(t, "dumpe2fs", "-h", write(t, fstree.NewDir(0o755), o))
	for _, want := range []string{"has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum",
		"rootfs", "aabb0000-0000", "Filesystem state:         clean", "half_md4", "Flex block group size:    16", "Total journal size:       32M", "Sep  9 01:46:40 2001", "Reserved GDT blocks:      127"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestSameBits(t *testing.T) {
	sum := func(root *fstree.Node) [32]byte {
		b, err := os.ReadFile(write(t, root, ext4.Options{Size: 32 << 20}))
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	first, second := tree(5), tree(5)
	for _, n := range second.Walk() { // without holes in the source
		if n.Kind == fstree.File && n.Size > 0 {
			r, err := n.OpenContent()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(io.NewSectionReader(r, 0, n.Size))
			if err != nil {
				t.Fatal(err)
			}
			n.Content = fstree.Bytes(b)
		}
	}
	if sum(first) != sum(second) {
		t.Error("other bits in the second run")
	}
	second.Mode ^= 1
	if sum(first) == sum(second) {
		t.Error("the mode of the root changes nothing")
	}
}

type sink struct{}

func (sink) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestRefused(t *testing.T) {
	one := func(n fstree.Node) *fstree.Node {
		root := fstree.NewDir(0o755)
		put(t, root, "x", &n)
		return root
	}
	random := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	twice := fstree.NewDir(0o755)
	d := fstree.NewDir(0)
	put(t, twice, "a", d)
	put(t, twice, "b", d)
	lost := fstree.NewDir(0o755)
	put(t, lost, "lost+found", &fstree.Node{Kind: fstree.FIFO})
	var long []fstree.Xattr
	for i := range 5 {
		long = append(long, fstree.Xattr{Name: fmt.Sprint("user.", i), Value: random[:1000]})
	}
	small := ext4.Options{Size: 4 << 20}
	for name, c := range map[string]struct {
		root *fstree.Node
		o    ext4.Options
	}{
		"tiny":              {fstree.NewDir(0), ext4.Options{Size: 100 << 10}},
		"no room":           {one(fstree.Node{Kind: fstree.File, Size: 8 << 20, Content: fstree.Bytes(random)}), small},
		"many attributes":   {one(fstree.Node{Kind: fstree.File, Xattrs: long}), small},
		"strange ACL":       {one(fstree.Node{Kind: fstree.File, Xattrs: []fstree.Xattr{{Name: "system.posix_acl_access", Value: []byte("abc")}}}), small},
		"device":            {one(fstree.Node{Kind: fstree.CharDevice, Major: 5000}), small},
		"empty link":        {one(fstree.Node{Kind: fstree.Symlink}), small},
		"nothing":           {one(fstree.Node{}), small},
		"short content":     {one(fstree.Node{Kind: fstree.File, Size: 10000, Content: fstree.Bytes("abc")}), small},
		"directory twice":   {twice, small},
		"lost+found a fifo": {lost, small},
		"label":             {fstree.NewDir(0), ext4.Options{Size: 4 << 20, Label: strings.Repeat("l", 17)}},
		"inodes":            {fstree.NewDir(0), ext4.Options{Size: 4 << 20, BytesPerInode: 100}},
	} {
		_, err := ext4.Write(context.Background(), sink{}, c.root, c.o)
		if err == nil {
			t.Errorf("%s: written", name)
		}
		if name == "no room" && !errors.Is(err, ext4.ErrNoSpace) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSizes: file systems of any size, number of inodes and last group.
func TestSizes(t *testing.T) {
	for i := range 120 {
		if !testkit.Sample(i, 8) {
			continue
		}
		r := rand.New(rand.NewPCG(uint64(i), 9))
		o := ext4.Options{Size: int64(1<<20) << (i % 17), BytesPerInode: 4096 << r.IntN(5)}
		o.Size += r.Int64N(o.Size)
		check(t, fmt.Sprintf("%+v", o), write(t, fstree.NewDir(0o755), o))
	}
}

// TestMinSize: what it says is enough, and not much more.
func TestMinSize(t *testing.T) {
	large := fstree.NewDir(0o755)
	random := make([]byte, 20<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	put(t, large, "data", &fstree.Node{Kind: fstree.File, Size: int64(len(random)), Content: fstree.Bytes(random)})
	size := int64(1) << 40
	put(t, large, "hole", &fstree.Node{Kind: fstree.File, Size: size, Content: fstree.Sparse(strings.NewReader("x"), size, []fstree.Piece{{Extent: fstree.Extent{Start: 1 << 35, Length: 1}}})})
	many := fstree.NewDir(0o755)
	for i := range 12_000 {
		put(t, many, fmt.Sprintf("%0200d", i), &fstree.Node{Kind: fstree.FIFO, Xattrs: []fstree.Xattr{{Name: "trusted.x", Value: random[i:][:100]}}})
	}
	for name, c := range map[string]struct {
		root *fstree.Node
		most int64
	}{"empty": {fstree.NewDir(0), 1 << 20}, "random": {tree(4), 24 << 20}, "large": {large, 40 << 20}, "many": {many, 90 << 20}} {
		for _, o := range []ext4.Options{{}, {BytesPerInode: 8192, NoJournal: true}} {
			var err error
			if o.Size, err = ext4.MinSize(c.root, o); err != nil {
				t.Fatal(err)
			}
			if o.Size > c.most {
				t.Errorf("%s: %d bytes", name, o.Size)
			}
			check(t, fmt.Sprintf("%s with %d bytes", name, o.Size), write(t, c.root, o))
		}
	}
}
