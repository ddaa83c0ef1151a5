package squashfs_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/fstree/treetest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/squashfs"
)

// seconds is how trees compare after squashfs.
var seconds = fstree.Comparison{TimeUnit: time.Second}

var compressions = []squashfs.Compression{squashfs.Gzip, squashfs.XZ, squashfs.Zstd, squashfs.LZ4, squashfs.LZMA}

// memory is an image in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func write(t testing.TB, root *fstree.Node, o squashfs.Options) []byte {
	t.Helper()
	var m memory
	r, err := squashfs.Write(context.Background(), &m, root, o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != int64(len(m.b)) {
		t.Errorf("%d bytes are reported, %d written", r.Size, len(m.b))
	}
	return m.b
}

func read(t testing.TB, b []byte) *fstree.Node {
	t.Helper()
	i, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := i.Tree(fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return tree.Root
}

// save puts bytes into a file.
func save(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.squashfs")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// variant is options that depend on a seed.
func variant(seed uint64) squashfs.Options {
	r := rand.New(rand.NewPCG(seed, 1))
	o := squashfs.Options{Compression: compressions[seed%uint64(len(compressions))], BlockSize: 4096 << r.IntN(9), Exports: r.IntN(2) == 0}
	switch r.IntN(4) {
	case 0:
		o.NoFragments = true
	case 1:
		o.TailEnds = true
	}
	if o.Compression != squashfs.XZ && o.Compression != squashfs.LZMA {
		o.Level = r.IntN(2)
	}
	return o
}

func seeds() uint64 { return uint64(testkit.Count(20)) }

func TestRoundTrip(t *testing.T) {
	for seed := range seeds() {
		tree := treetest.Random(seed, treetest.Any())
		treetest.Equal(t, fmt.Sprintf("seed %d, %+v", seed, variant(seed)), tree, read(t, write(t, tree, variant(seed))), seconds)
	}
}

// TestUnsquashfs unpacks our images with unsquashfs, and reads what mksquashfs makes of
// the same folder.
func TestUnsquashfs(t *testing.T) {
	testkit.Root(t)
	testkit.Tool(t, "unsquashfs")
	for seed := range seeds() {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			o := variant(seed)
			tree := treetest.Random(seed, treetest.Any())
			path, dir := save(t, write(t, tree, o)), filepath.Join(t.TempDir(), "root")
			if out, errOut, code := testkit.Try(t, "unsquashfs", "-d", dir, path); code != 0 {
				t.Fatalf("%+v: unsquashfs: %d %s %s", o, code, out, errOut)
			}
			got, err := fstree.FromDir(dir, fstree.Options{})
			if err != nil {
				t.Fatal(err)
			}
			treetest.Equal(t, fmt.Sprintf("unsquashfs, %+v", o), tree, got.Root, seconds)

			theirs := filepath.Join(t.TempDir(), "theirs")
			args := []string{dir, theirs, "-noappend", "-no-progress", "-comp", o.Compression.String(), "-b", fmt.Sprint(o.BlockSize)}
			if o.NoFragments {
				args = append(args, "-no-fragments")
			} else if o.TailEnds {
				args = append(args, "-always-use-fragments")
			}
			testkit.Run(t, "mksquashfs", args...)
			b, err := os.ReadFile(theirs)
			if err != nil {
				t.Fatal(err)
			}
			packed := read(t, b)
			unlinkSymlinks(tree)
			unlinkSymlinks(packed)
			treetest.Equal(t, fmt.Sprintf("mksquashfs %v", args[2:]), tree, packed, seconds)
		})
	}
}

// unlinkSymlinks makes a symbolic link of its own of each name: mksquashfs keeps some
// of their hard links only.
func unlinkSymlinks(dir *fstree.Node) {
	for _, c := range dir.Children() {
		if c.Node.Kind == fstree.Dir {
			unlinkSymlinks(c.Node)
		} else if c.Node.Kind == fstree.Symlink {
			alone := *c.Node
			dir.Set(c.Name, &alone)
		}
	}
}

// TestKernel mounts images and compares what Linux sees.
func TestKernel(t *testing.T) {
	testkit.Root(t)
	testkit.Tool(t, "mount")
	for seed := range uint64(5) {
		o := variant(seed)
		if o.Compression == squashfs.LZMA {
			continue // not in the kernel
		}
		tree := treetest.Random(seed, treetest.Any())
		dir := mount(t, save(t, write(t, tree, o)))
		got, err := fstree.FromDir(dir, fstree.Options{})
		if err != nil {
			t.Fatal(err)
		}
		treetest.Equal(t, fmt.Sprintf("the kernel, %+v", o), tree, got.Root, seconds)
	}
}

// mount mounts an image for the time of the test.
func mount(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	if _, errOut, code := testkit.Try(t, "mount", "-t", "squashfs", "-o", "loop,ro", path, dir); code != 0 {
		t.Skipf("cannot mount squashfs here: %s", strings.TrimSpace(errOut))
	}
	t.Cleanup(func() { testkit.Run(t, "umount", dir) })
	return dir
}

// TestSameBits: the image does not depend on workers, runs, nor on where the source has holes.
func TestSameBits(t *testing.T) {
	for _, c := range compressions {
		shape := treetest.Any()
		shape.MaxSize = 50 << 10
		tree := treetest.Random(7, shape)
		first := sha256.Sum256(write(t, tree, squashfs.Options{Compression: c, BlockSize: 16384, Workers: 1}))
		for _, workers := range []int{1, 2, 8} {
			if sha256.Sum256(write(t, tree, squashfs.Options{Compression: c, BlockSize: 16384, Workers: workers})) != first {
				t.Errorf("%s: other bits with %d workers", c, workers)
			}
		}
		for _, n := range tree.Walk() {
			if n.Kind == fstree.File && n.Size > 0 {
				n.Content = flat(t, n)
			}
		}
		if sha256.Sum256(write(t, tree, squashfs.Options{Compression: c, BlockSize: 16384})) != first {
			t.Errorf("%s: other bits for a source without holes", c)
		}
	}
}

// flat is the content of a file without holes.
func flat(t testing.TB, n *fstree.Node) fstree.Content {
	r, err := n.OpenContent()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(r, 0, n.Size))
	if err != nil {
		t.Fatal(err)
	}
	return fstree.Bytes(b)
}

func file(content string) *fstree.Node {
	return &fstree.Node{Kind: fstree.File, Mode: 0o644, Size: int64(len(content)), Content: fstree.Bytes(content), ModTime: time.Unix(5, 0)}
}

func put(t testing.TB, dir *fstree.Node, name string, n *fstree.Node) {
	t.Helper()
	if err := dir.Set(name, n); err != nil {
		t.Fatal(err)
	}
}

// TestDuplicates: files of equal content take their room once, large and small ones.
func TestDuplicates(t *testing.T) {
	random := make([]byte, 300000)
	rand.NewChaCha8([32]byte{}).Read(random)
	sizes := map[int]int{}
	for _, copies := range []int{1, 5} {
		root := fstree.NewDir(0o755)
		for i := range copies {
			put(t, root, fmt.Sprint("large", i), file(string(random)))
			put(t, root, fmt.Sprint("small", i), file(string(random[:3000])))
			put(t, root, fmt.Sprint("other", i), file(string(random[(i+1)*3000:][:3000])))
		}
		b := write(t, root, squashfs.Options{Pad: -1})
		treetest.Equal(t, "copies", root, read(t, b), seconds)
		sizes[copies] = len(b)
	}
	if more := sizes[5] - sizes[1]; more < 4*3000 || more > 4*3000+1500 {
		t.Errorf("four copies more take %d bytes", more)
	}
}

// TestLargeDirectory has as many entries as need an index of many metadata blocks.
func TestLargeDirectory(t *testing.T) {
	root := fstree.NewDir(0o755)
	many := fstree.NewDir(0o755)
	put(t, root, "many", many)
	shared := file("x")
	for i := range 100_000 {
		n := shared
		if i%3 == 0 {
			n = &fstree.Node{Kind: fstree.FIFO, ModTime: time.Unix(0, 0)}
		}
		put(t, many, fmt.Sprintf("a name of usual length %06d", i), n)
	}
	b := write(t, root, squashfs.Options{Compression: squashfs.Zstd})
	treetest.Equal(t, "100000 entries", root, read(t, b), seconds)
	path := save(t, b)
	if testkit.Installed("unsquashfs") {
		if got := strings.Count(testkit.Run(t, "unsquashfs", "-l", "-q", path), "\n"); got != 100_002 {
			t.Errorf("unsquashfs lists %d lines", got)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	dir := mount(t, path)
	for i := range 100_000 { // each by its name, through the index
		if i%37 > 0 {
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, "many", fmt.Sprintf("a name of usual length %06d", i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "many", "a name of usual length 100000")); !os.IsNotExist(err) {
		t.Errorf("a name that is not there: %v", err)
	}
}

// TestHoles: a file of a hole of 1 TiB takes no time and no room.
func TestHoles(t *testing.T) {
	root := fstree.NewDir(0o755)
	size := int64(1) << 40
	put(t, root, "hole", &fstree.Node{Kind: fstree.File, Size: size, ModTime: time.Unix(0, 0),
		Content: fstree.Sparse(strings.NewReader("data"), size, []fstree.Piece{{Extent: fstree.Extent{Start: size / 2, Length: 4}}})})
	b := write(t, root, squashfs.Options{BlockSize: 1 << 20, Compression: squashfs.LZ4})
	if len(b) > 64<<10 {
		t.Errorf("%d bytes", len(b))
	}
	n := read(t, b).Child("hole")
	r, err := n.OpenContent()
	if err != nil {
		t.Fatal(err)
	}
	start, end, err := r.NextData(0)
	if n.Size != size || start != size/2 || end != size/2+1<<20 || err != nil {
		t.Errorf("%d bytes with data from %d to %d, %v", n.Size, start, end, err)
	}
	got := make([]byte, 6)
	if _, err := r.ReadAt(got, size/2-1); err != nil || string(got) != "\x00data\x00" {
		t.Errorf("%q %v", got, err)
	}
}

// TestLongPaths: a tree costs what its paths take, which is much more than its names where
// many files are deep.
func TestLongPaths(t *testing.T) {
	root := fstree.NewDir(0o755)
	dir := root
	for range 15 {
		d := fstree.NewDir(0o755)
		put(t, dir, strings.Repeat("d", 200), d)
		dir = d
	}
	for i := range 20 {
		put(t, dir, strconv.Itoa(i), file("x"))
	}
	b := write(t, root, squashfs.Options{})
	i, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Tree(fstree.Options{Limits: fstree.Limits{Memory: 45_000}}); !errors.Is(err, fstree.ErrLimit) {
		t.Errorf("20 files with paths of 3000 bytes in 45 kB: %v", err)
	}
	if _, err := i.Tree(fstree.Options{Limits: fstree.Limits{Memory: 120_000}}); err != nil {
		t.Error(err)
	}
}

func TestWhatIsLost(t *testing.T) {
	root := fstree.NewDir(0o755)
	n := file("x")
	n.ModTime = time.Unix(-5, 0)
	n.SetXattrs([]fstree.Xattr{{Name: "system.posix_acl_access", Value: []byte("acl")}, {Name: "user.kept", Value: []byte("1")}})
	put(t, root, "f", n)
	var m memory
	r, err := squashfs.Write(context.Background(), &m, root, squashfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(r.Lost, "; "); !strings.Contains(text, "system.posix_acl_access") || !strings.Contains(text, "1970") || len(r.Lost) != 2 {
		t.Errorf("%q", r.Lost)
	}
	got := read(t, m.b).Child("f")
	if v, ok := got.Xattr("user.kept"); !ok || string(v) != "1" || len(got.Xattrs) != 1 || got.ModTime.Unix() != 0 {
		t.Errorf("%+v", got)
	}
}

func TestRefused(t *testing.T) {
	dir := func(change func(root *fstree.Node)) *fstree.Node {
		root := fstree.NewDir(0o755)
		change(root)
		return root
	}
	for name, c := range map[string]struct {
		root *fstree.Node
		o    squashfs.Options
	}{
		"file as root":    {file(""), squashfs.Options{}},
		"block size":      {dir(func(*fstree.Node) {}), squashfs.Options{BlockSize: 5000}},
		"large block":     {dir(func(*fstree.Node) {}), squashfs.Options{BlockSize: 2 << 20}},
		"level":           {dir(func(*fstree.Node) {}), squashfs.Options{Level: 10}},
		"level of xz":     {dir(func(*fstree.Node) {}), squashfs.Options{Compression: squashfs.XZ, Level: 1}},
		"lzo":             {dir(func(*fstree.Node) {}), squashfs.Options{Compression: squashfs.LZO}},
		"large device":    {dir(func(r *fstree.Node) { r.Set("d", &fstree.Node{Kind: fstree.CharDevice, Major: 4096}) }), squashfs.Options{}},
		"empty link":      {dir(func(r *fstree.Node) { r.Set("l", &fstree.Node{Kind: fstree.Symlink}) }), squashfs.Options{}},
		"mode":            {dir(func(r *fstree.Node) { r.Mode = 0o10000 }), squashfs.Options{}},
		"directory twice": {dir(func(r *fstree.Node) { d := fstree.NewDir(0); r.Set("a", d); r.Set("b", d) }), squashfs.Options{}},
		"content too short": {dir(func(r *fstree.Node) {
			r.Set("f", &fstree.Node{Kind: fstree.File, Size: 10, Content: fstree.Bytes("short")})
		}), squashfs.Options{}},
		"large content too short": {dir(func(r *fstree.Node) {
			r.Set("f", &fstree.Node{Kind: fstree.File, Size: 10 << 20, Content: fstree.Bytes(strings.Repeat("x", 9<<20))})
			r.Set("g", &fstree.Node{Kind: fstree.File, Size: 10 << 20, Content: fstree.Bytes(strings.Repeat("x", 10<<20))})
		}), squashfs.Options{}},
	} {
		if _, err := squashfs.Write(context.Background(), &memory{}, c.root, c.o); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

// failing is a disk that is full after some bytes.
type failing struct{ left int }

func (f *failing) WriteAt(p []byte, _ int64) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, fmt.Errorf("no space left")
	}
	return len(p), nil
}

func TestFullDisk(t *testing.T) {
	root := fstree.NewDir(0o755)
	for i := range 30 {
		random := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{byte(i)}).Read(random)
		put(t, root, fmt.Sprint(i), file(string(random)))
	}
	for _, left := range []int{0, 5 << 20, 30 << 20} {
		if _, err := squashfs.Write(context.Background(), &failing{left}, root, squashfs.Options{Compression: squashfs.LZ4}); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%d bytes of room: %v", left, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	o := squashfs.Options{Compression: squashfs.LZ4, Progress: func(done, total int64) {
		if done > total {
			t.Errorf("%d of %d", done, total)
		}
		if done > 5<<20 {
			cancel()
		}
	}}
	if _, err := squashfs.Write(ctx, &memory{}, root, o); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

func TestStream(t *testing.T) {
	tree := treetest.Random(3, treetest.Any())
	var out bytes.Buffer
	o := squashfs.Options{Compression: squashfs.LZ4}
	if _, err := squashfs.Stream(context.Background(), &out, tree, o, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), write(t, tree, o)) {
		t.Error("other bytes than Write")
	}
}

// TestOptionBlocks: unsquashfs shows the options that the image was made with.
func TestOptionBlocks(t *testing.T) {
	root := fstree.NewDir(0o755)
	put(t, root, "f", file(strings.Repeat("text ", 1000)))
	for _, c := range []struct {
		o    squashfs.Options
		want string
	}{
		{squashfs.Options{Level: 3}, "compression-level 3"},
		{squashfs.Options{Compression: squashfs.Zstd, Level: 19}, "compression-level 19"},
		{squashfs.Options{Compression: squashfs.LZ4, Level: 1}, "High Compression option specified (-Xhc)"},
		{squashfs.Options{Compression: squashfs.XZ}, "Compression xz"},
		{squashfs.Options{Compression: squashfs.LZMA}, "Compression lzma"},
	} {
		if got := testkit.Run(t, "unsquashfs", "-stat", save(t, write(t, root, c.o))); !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q", c.o, got)
		}
	}
}

// TestSevenZip extracts with another reader than unsquashfs.
func TestSevenZip(t *testing.T) {
	zip := testkit.Tool(t, "7zz")
	root := fstree.NewDir(0o755)
	put(t, root, "a", file(strings.Repeat("text ", 100000)))
	for _, c := range compressions {
		if c == squashfs.LZ4 {
			continue // it does not read it
		}
		out, err := exec.Command(zip, "x", "-so", save(t, write(t, root, squashfs.Options{Compression: c})), "a").Output()
		if err != nil || string(out) != strings.Repeat("text ", 100000) {
			t.Errorf("%s: %d bytes, %v", c, len(out), err)
		}
	}
}
