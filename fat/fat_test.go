package fat_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/cowl-disk/cowl/fat"
	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/fstree/treetest"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// tree is a random one of what FAT holds: files and directories, names of letters.
func tree(seed uint64, entries int) *fstree.Node {
	root := treetest.Random(seed, treetest.Shape{Entries: entries, MaxSize: 60 << 10, Hole: 8 << 10,
		Times: func(r *rand.Rand) time.Time {
			return time.Date(1980+r.IntN(120), 3, 1+r.IntN(28), r.IntN(24), r.IntN(60), 2*r.IntN(30), 0, time.UTC)
		},
		Names: names, MaxUID: 1})
	root.ModTime = time.Unix(0, 0)
	restrict(root)
	return root
}

func names(r *rand.Rand) string {
	switch r.IntN(10) {
	case 0:
		return strings.Repeat("long ", r.IntN(40)) + fmt.Sprintf("name.%d", r.IntN(1000))
	case 1:
		return fmt.Sprintf("BOOT%d.EFI", r.IntN(1000))
	case 2:
		return fmt.Sprintf("grüße-%d-日本.text", r.IntN(100))
	case 3:
		return fmt.Sprintf(".hidden.%d.x+y", r.IntN(100))
	case 4:
		return strings.Repeat("n", 255)
	case 5:
		return fmt.Sprintf("LONGISHNAME%d.CFG", r.IntN(100))
	case 6:
		return fmt.Sprintf("exactly13%04d", r.IntN(10000))
	}
	return fmt.Sprintf("f%d.c", r.IntN(10000))
}

// restrict takes out what FAT does not hold: links, and names that differ in case only.
func restrict(dir *fstree.Node) {
	seen := map[string]bool{}
	for _, c := range dir.Children() {
		key := strings.Map(unicode.ToUpper, c.Name)
		if seen[key] || c.Node.Kind != fstree.Dir && c.Node.Kind != fstree.File {
			dir.Remove(c.Name)
			continue
		}
		seen[key] = true
		if c.Node.Kind == fstree.Dir {
			restrict(c.Node)
		} else {
			alone := *c.Node
			dir.Set(c.Name, &alone)
		}
	}
}

// make writes a file system into a file.
func write(t testing.TB, root *fstree.Node, o fat.Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := fat.Write(context.Background(), f, root, o); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != o.Size/512*512 {
		t.Errorf("the file has %d bytes, not %d", info.Size(), o.Size)
	}
	return path
}

func fsck(t testing.TB, what, path string) {
	t.Helper()
	out, errOut, code := testkit.Try(t, "fsck.fat", "-n", "-v", path)
	if code != 0 {
		t.Errorf("%s: fsck.fat: %d %s %s", what, code, out, errOut)
	}
}

// copyOut takes everything out with mtools.
func copyOut(t testing.TB, path string) *fstree.Node {
	t.Helper()
	mcopy := testkit.Tool(t, "mcopy")
	dir := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := mtool(t, "mdir", "-i", path, "-b", "::/").Output()
	if err != nil {
		t.Fatalf("mdir: %v", err)
	}
	if len(list) > 0 {
		cmd := mtool(t, mcopy, "-i", path, "-s", "-p", "-m", "-Q", "::/*", dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("mcopy: %v %s", err, out)
		}
	}
	got, err := fstree.FromDir(dir, fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return got.Root
}

func mtool(t testing.TB, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(testkit.Tool(t, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "MTOOLS_SKIP_CHECK=0")
	return cmd
}

// asFAT is what counts of trees in FAT.
var asFAT = fstree.Comparison{TimeUnit: 2 * time.Second, Ignore: func(_ string, n *fstree.Node) {
	n.Mode, n.UID, n.GID, n.Xattrs = 0, 0, 0, nil
	if n.Kind == fstree.Dir { // mtools does not set their times
		n.ModTime = time.Time{}
	}
}}

func variant(seed uint64) fat.Options {
	o := []fat.Options{{Size: 3<<20 + 100, Bits: 12}, {Size: 16 << 20, Label: "data"}, {Size: 100 << 20, Bits: 32, Label: "UEFI"}, {Size: 600 << 20, Serial: 0x12345678}, {Size: 40 << 20, ClusterSize: 4096, Bits: 16}}[seed%5]
	if seed%5 == 0 {
		o.Label = "A B"
	}
	return o
}

func seeds() uint64 { return uint64(testkit.Count(15)) }

func TestAgainstTools(t *testing.T) {
	for seed := range seeds() {
		root, o := tree(seed, 25), variant(seed)
		path := write(t, root, o)
		what := fmt.Sprintf("seed %d, %+v", seed, o)
		fsck(t, what, path)
		treetest.Equal(t, what, root, copyOut(t, path), asFAT)
	}
}

// TestKernel mounts, where the kernel has FAT.
func TestKernel(t *testing.T) {
	testkit.Root(t)
	for seed := range uint64(5) {
		root := tree(seed, 25)
		dir := t.TempDir()
		if _, errOut, code := testkit.Try(t, "mount", "-t", "vfat", "-o", "loop,ro,utf8,tz=UTC,shortname=mixed", write(t, root, variant(seed)), dir); code != 0 {
			t.Skipf("cannot mount vfat here: %s", strings.TrimSpace(errOut))
		}
		got, err := fstree.FromDir(dir, fstree.Options{})
		if err == nil {
			treetest.Equal(t, fmt.Sprint("seed ", seed), root, got.Root, asFAT)
		}
		testkit.Run(t, "umount", dir)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSameBits(t *testing.T) {
	sum := func() [32]byte {
		b, err := os.ReadFile(write(t, tree(3, 25), fat.Options{Size: 8 << 20, Label: "x"}))
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	if first, second := sum(), sum(); first != second {
		t.Error("other bits in the second run")
	}
}

// TestManyNames: a directory of many names with one short form, and more than a cluster.
func TestManyNames(t *testing.T) {
	root, dir := fstree.NewDir(0o755), fstree.NewDir(0o755)
	if err := root.Set("many", dir); err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		if err := dir.Set(fmt.Sprintf("Configuration %d.text", i), &fstree.Node{Kind: fstree.File, ModTime: time.Unix(1e9, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	path := write(t, root, fat.Options{Size: 64 << 20})
	fsck(t, "5000 names", path)
	list, err := mtool(t, "mdir", "-i", path, "-b", "::/many").Output()
	if n := bytes.Count(list, []byte("Configuration ")); err != nil || n != 5000 {
		t.Errorf("mdir lists %d names, %v", n, err)
	}
}

func TestLabelAndSerial(t *testing.T) {
	path := write(t, fstree.NewDir(0), fat.Options{Size: 100 << 20, Bits: 32, Label: "uefi", Serial: 0xabcd1234})
	out := testkit.Run(t, "mlabel", "-i", path, "-s", "::") + testkit.Run(t, "minfo", "-i", path, "::")
	if !strings.Contains(out, "UEFI") || !strings.Contains(out, "ABCD1234") {
		t.Errorf("%s", out)
	}
}

func TestRefused(t *testing.T) {
	put := func(name string, n fstree.Node) *fstree.Node {
		root := fstree.NewDir(0o755)
		if err := root.Set(name, &n); err != nil {
			t.Fatal(err)
		}
		return root
	}
	file := fstree.Node{Kind: fstree.File}
	two := put("a", file)
	if err := two.Set("A", &fstree.Node{Kind: fstree.File}); err != nil {
		t.Fatal(err)
	}
	small := fat.Options{Size: 4 << 20}
	for name, c := range map[string]struct {
		root *fstree.Node
		o    fat.Options
	}{
		"symbolic link":    {put("l", fstree.Node{Kind: fstree.Symlink, Target: "x"}), small},
		"device":           {put("d", fstree.Node{Kind: fstree.CharDevice}), small},
		"large file":       {put("f", fstree.Node{Kind: fstree.File, Size: 1 << 32}), fat.Options{Size: 8 << 30}},
		"no room":          {put("f", fstree.Node{Kind: fstree.File, Size: 5 << 20}), small},
		"case":             {two, small},
		"colon":            {put("a:b", file), small},
		"no UTF-8":         {put("a\xff", file), small},
		"dot at the end":   {put("a.", file), small},
		"space at the end": {put("a ", file), small},
		"bits":             {put("a", file), fat.Options{Size: 4 << 20, Bits: 13}},
		"size":             {put("a", file), fat.Options{Size: 100}},
		"small for FAT32":  {put("a", file), fat.Options{Size: 20 << 20, Bits: 32}},
		"large for FAT12":  {put("a", file), fat.Options{Size: 2 << 30, Bits: 12}},
		"clusters":         {put("a", file), fat.Options{Size: 4 << 20, ClusterSize: 1000}},
		"label":            {put("a", file), fat.Options{Size: 4 << 20, Label: "twelve chars"}},
		"strange label":    {put("a", file), fat.Options{Size: 4 << 20, Label: "a*b"}},
		"short content":    {put("f", fstree.Node{Kind: fstree.File, Size: 10, Content: fstree.Bytes("abc")}), small},
	} {
		err := fat.Write(context.Background(), &sink{}, c.root, c.o)
		if err == nil {
			t.Errorf("%s: written", name)
		}
		if (name == "no room") != errors.Is(err, fat.ErrNoSpace) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type sink struct{}

func (*sink) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
