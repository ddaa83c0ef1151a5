package vvfat_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/fstree/treetest"
	"github.com/cowl-disk/cowl/internal/fat"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/vvfat"
)

// tryOpen opens a folder; warnings are appended to what warned points to.
func tryOpen(o opts.Dict, write bool, warned *[]string) (driver.Storage, error) {
	req := &driver.OpenRequest{Options: o, Access: driver.Access{Write: write}, Env: &driver.Env{Warn: func(s string) {
		if warned != nil {
			*warned = append(*warned, s)
		}
	}}}
	n, err := vvfat.New().Open(context.Background(), req)
	if err != nil {
		return nil, err
	}
	return n.(driver.Storage), nil
}

func open(t testing.TB, o opts.Dict, write bool) driver.Storage {
	t.Helper()
	n, err := tryOpen(o, write, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func finish(t testing.TB, n driver.Storage) {
	t.Helper()
	if err := n.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// start is the offset of the volume on the disk.
func start(o opts.Dict) int64 {
	if o["floppy"] == "on" {
		return 0
	}
	return 63 * 512
}

// volume copies the file system into a file, by what Map says.
func volume(t testing.TB, n driver.Storage, from int64) string {
	t.Helper()
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "volume")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := from; off < n.Size(); {
		e, err := n.Map(ctx, off, 1<<20)
		if err != nil || e.Length < 1 {
			t.Fatalf("Map at %d: %+v, %v", off, e, err)
		}
		if e.Kind == driver.ExtentData {
			b := make([]byte, e.Length)
			if _, err := n.ReadAt(ctx, b, off); err != nil {
				t.Fatalf("read at %d: %v", off, err)
			}
			if _, err := f.WriteAt(b, off-from); err != nil {
				t.Fatal(err)
			}
		}
		off += e.Length
	}
	if err := f.Truncate(n.Size() - from); err != nil {
		t.Fatal(err)
	}
	return path
}

func fsck(t testing.TB, what, path string) {
	t.Helper()
	if out, errOut, code := testkit.Try(t, "fsck.fat", "-n", "-v", path); code != 0 {
		t.Errorf("%s: fsck.fat: %d %s %s", what, code, out, errOut)
	}
}

func mtool(t testing.TB, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(testkit.Tool(t, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MTOOLS_SKIP_CHECK=0")
	return cmd
}

// copyOut takes everything out with mtools.
func copyOut(t testing.TB, path string) *fstree.Node {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := mtool(t, "mdir", "-i", path, "-b", "::/").Output()
	if err != nil {
		t.Fatalf("mdir: %v", err)
	}
	if len(list) > 0 {
		if out, err := mtool(t, "mcopy", "-i", path, "-s", "-p", "-m", "-Q", "::/*", dir).CombinedOutput(); err != nil {
			t.Fatalf("mcopy: %v %s", err, out)
		}
	}
	return tree(t, dir)
}

func tree(t testing.TB, dir string) *fstree.Node {
	t.Helper()
	got, err := fstree.FromDir(dir, fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return got.Root
}

// asFAT is what counts of trees in FAT.
var asFAT = fstree.Comparison{TimeUnit: 2 * time.Second, Ignore: func(_ string, n *fstree.Node) {
	n.Mode, n.UID, n.GID, n.Xattrs = 0, 0, 0, nil
	if n.Kind == fstree.Dir { // mtools does not set their times
		n.ModTime = time.Time{}
	}
}}

func randomName(r *rand.Rand) string {
	switch r.IntN(11) {
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
	case 7:
		return fmt.Sprintf("file%d.txt", r.IntN(1000))
	}
	return fmt.Sprintf("f%d.c", r.IntN(10000))
}

// fillFolder puts random files and folders into a folder.
func fillFolder(t testing.TB, r *rand.Rand, dir string, entries int, most int64) {
	t.Helper()
	dirs, taken := []string{dir}, map[string]bool{}
	for range entries {
		full := filepath.Join(dirs[r.IntN(len(dirs))], randomName(r))
		if key := fat.Fold(full); taken[key] || len(full) > 3000 {
			continue
		} else {
			taken[key] = true
		}
		if r.IntN(5) == 0 {
			if err := os.Mkdir(full, 0o755); err != nil {
				t.Fatal(err)
			}
			dirs = append(dirs, full)
			continue
		}
		b := make([]byte, []int64{0, r.Int64N(most), 8192 * r.Int64N(3)}[r.IntN(3)])
		testkit.Fill(r, b)
		if err := os.WriteFile(full, b, 0o644); err != nil {
			t.Fatal(err)
		}
		// To the day a clock is changed, a time in that hour can be two.
		when := time.Date(1980+r.IntN(120), 6, 1+r.IntN(28), r.IntN(24), r.IntN(60), 2*r.IntN(30), 0, time.Local)
		if err := os.Chtimes(full, when, when); err != nil {
			t.Fatal(err)
		}
	}
}

var variants = []opts.Dict{{}, {"fat-type": "12"}, {"fat-type": "32", "label": "my disk"}, {"floppy": "on"}, {"fat-type": "16"}, {"floppy": "on", "fat-type": "12"}, {"floppy": "on", "fat-type": "16", "label": ""}}

// withDir is a copy of options with the folder.
func withDir(o opts.Dict, dir string) opts.Dict {
	c := opts.Dict{"dir": dir}
	for k, v := range o {
		c[k] = v
	}
	return c
}

func TestAgainstTools(t *testing.T) {
	for seed := range uint64(testkit.Count(7)) {
		r := testkit.Rand(seed)
		dir := t.TempDir()
		o := withDir(variants[seed%uint64(len(variants))], dir)
		most, entries := int64(200<<10), 30
		if o["floppy"] == "on" {
			most = 20 << 10
		}
		if seed%3 == 0 && o["floppy"] == nil {
			entries = 150
		}
		fillFolder(t, r, dir, entries, most)
		n := open(t, o, false)
		path := volume(t, n, start(o))
		finish(t, n)
		what := fmt.Sprintf("seed %d, %v", seed, o)
		fsck(t, what, path)
		treetest.Equal(t, what, tree(t, dir), copyOut(t, path), asFAT)
	}
}

// TestReads compares reads of any offset and length with one of everything.
func TestReads(t *testing.T) {
	dir := t.TempDir()
	r := testkit.Rand(1)
	fillFolder(t, r, dir, 40, 20<<10)
	ctx := context.Background()
	for _, o := range variants {
		if o["floppy"] != "on" {
			continue
		}
		n := open(t, withDir(o, dir), false)
		all := make([]byte, n.Size())
		if _, err := n.ReadAt(ctx, all, 0); err != nil {
			t.Fatal(err)
		}
		for range 300 {
			off, length := r.Int64N(n.Size()), r.Int64N(40<<10)
			if r.IntN(2) == 0 { // in the tables
				off, length = r.Int64N(20<<10), r.Int64N(3000)
			}
			b := make([]byte, length)
			m, err := n.ReadAt(ctx, b, off)
			if err != nil && (err != io.EOF || off+length <= n.Size()) || !bytes.Equal(b[:m], all[off:off+int64(m)]) {
				t.Fatalf("%v: %d bytes at %d: %d, %v", o, length, off, m, err)
			}
		}
		for off := int64(0); off < n.Size(); {
			e, err := n.Map(ctx, off, n.Size())
			if err != nil || e.Length < 1 {
				t.Fatal(e, err)
			}
			if zero := len(bytes.Trim(all[off:off+e.Length], "\x00")) == 0; e.Kind == driver.ExtentZero && !zero {
				t.Fatalf("%v: %d bytes at %d are not zero", o, e.Length, off)
			}
			off += e.Length
		}
		finish(t, n)
	}
}

// TestLarge: disks beyond 504 MiB, from sparse files.
func TestLarge(t *testing.T) {
	for _, c := range []struct {
		o           opts.Dict
		file        int64
		least, most int64
	}{
		{opts.Dict{}, 400 << 20, 528482304, 528482304},
		{opts.Dict{}, 600 << 20, 850 << 20, 950 << 20},
		{opts.Dict{}, 4<<30 - 1, 6 << 30, 13 << 29},
		{opts.Dict{"fat-type": "16"}, 600 << 20, 1056964608, 1056964608},
		{opts.Dict{"fat-type": "12"}, 40 << 20, 66060288, 66060288},
		{opts.Dict{"fat-type": "32"}, 1 << 20, 528482304, 528482304},
	} {
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, "large.bin"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(c.file); err != nil {
			t.Skipf("no sparse files here: %v", err)
		}
		if _, err := f.WriteAt([]byte("the end"), c.file-7); err != nil {
			t.Fatal(err)
		}
		f.Close()
		n := open(t, withDir(c.o, dir), false)
		if n.Size() < c.least || n.Size() > c.most {
			t.Errorf("%v, %d: %d bytes", c.o, c.file, n.Size())
		}
		// The file is in one piece, and what is last on the disk.
		b := make([]byte, 7)
		e, err := n.Map(context.Background(), n.Size()-512, 512)
		if err != nil || e.Kind != driver.ExtentZero {
			t.Errorf("the end: %+v %v", e, err)
		}
		end := int64(0)
		for off := int64(0); off < n.Size(); off += e.Length {
			if e, err = n.Map(context.Background(), off, n.Size()); err != nil {
				t.Fatal(err)
			}
			if e.Kind == driver.ExtentData {
				end = off + e.Length
			}
		}
		window := make([]byte, 64<<10)
		if _, err := n.ReadAt(context.Background(), window, end-int64(len(window))); err != nil || !bytes.Contains(window, []byte("the end\x00")) && !bytes.HasSuffix(window, []byte("the end")) {
			t.Errorf("%v, %d: the end of the file is not at %d: %v %q", c.o, c.file, end, err, b)
		}
		finish(t, n)
	}
}

func TestRefused(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(full, "f"), 3<<20); err != nil {
		t.Fatal(err)
	}
	huge := t.TempDir()
	if err := os.WriteFile(filepath.Join(huge, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(huge, "f"), 1<<32); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	for _, c := range []struct {
		o     opts.Dict
		write bool
		kind  error
		want  string
	}{
		{opts.Dict{}, false, driver.ErrInvalid, "vvfat block driver requires a 'dir' option"},
		{opts.Dict{"dir": dir, "label": "abcdefghijkl"}, false, driver.ErrInvalid, "vvfat label cannot be longer than 11 bytes"},
		{opts.Dict{"dir": dir, "label": "a*b"}, false, driver.ErrInvalid, `"A*B" is no label of a FAT file system`},
		{opts.Dict{"dir": dir, "fat-type": "14"}, false, driver.ErrInvalid, "valid FAT types are only 12, 16 and 32"},
		{opts.Dict{"dir": dir, "fat-type": "32", "floppy": "on"}, false, driver.ErrInvalid, "a floppy disk is too small for FAT32"},
		{opts.Dict{"dir": dir, "rw": "on"}, false, driver.ErrReadOnly, "unable to set VVFAT to 'rw' when drive is read-only"},
		{opts.Dict{"dir": dir}, true, driver.ErrReadOnly, "image is read-only"},
		{opts.Dict{"dir": dir + "/x"}, false, fs.ErrNotExist, "could not read directory " + dir + "/x"},
		{opts.Dict{"dir": filepath.Join(full, "f")}, false, nil, "could not read directory " + full + "/f"},
		{opts.Dict{"dir": full, "floppy": "on"}, false, driver.ErrTooLarge, "directory does not fit in FAT12 (capacity 2.88 MB)"},
		{opts.Dict{"dir": huge}, false, driver.ErrTooLarge, "file " + huge + "/f is larger than 4 GiB"},
	} {
		_, err := tryOpen(c.o, c.write, nil)
		if err == nil || err.Error() != c.want || c.kind != nil && !errors.Is(err, c.kind) {
			t.Errorf("%v: %v, want %s", c.o, err, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	p := vvfat.New().(driver.FilenameParser)
	for name, want := range map[string]string{
		"fat:dir":            "dir 0 false false",
		"fat:floppy:dir":     "dir 0 true false",
		"fat:rw:12:/a/b":     "/a/b 12 false true",
		"fat:16:32:rw:d":     "d 32 false true",
		"fat:other:x":        "x 0 false false",
		"fat:floppy:c:\\dir": "c:\\dir 0 true false",
		"fat:rw:c:\\dir":     "c:\\dir 0 false true",
		"fat:":               " 0 false false",
		"fat::":              " 0 false false",
	} {
		d, err := p.ParseFilename(name)
		if got := fmt.Sprint(d["dir"], " ", d["fat-type"], " ", d["floppy"], " ", d["rw"]); err != nil || got != want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if _, err := p.ParseFilename("fad:x"); err == nil || err.Error() != "file name string must start with 'fat:'" {
		t.Error(err)
	}
}

// TestLeftOut: what the disk cannot show is named, and links never lead out of the folder.
func TestLeftOut(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	put := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Skip(err) // a system without such names
		}
	}
	put(filepath.Join(outside, "secret"), "secret")
	put(filepath.Join(dir, "a"), "file")
	put(filepath.Join(dir, "A"), "file")
	put(filepath.Join(dir, "x:y"), "file")
	put(filepath.Join(dir, "x\xff"), "file")
	for name, target := range map[string]string{"inside": "a", "out": filepath.Join(outside, "secret"), "up": "../" + filepath.Base(outside) + "/secret", "self": ".", "gone": "nothing"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Skip(err)
		}
	}
	var warned []string
	n, err := tryOpen(opts.Dict{"dir": dir}, false, &warned)
	if err != nil {
		t.Fatal(err)
	}
	list, err := mtool(t, "mdir", "-i", volume(t, n, 63*512), "-b", "::/").Output()
	finish(t, n)
	if got := strings.Fields(string(list)); err != nil || len(got) != 2 || got[0] != "::/A" || got[1] != "::/inside" {
		t.Errorf("shown: %q %v", got, err)
	}
	for _, name := range []string{"/a'", "x:y", "x\xff", "out", "up", "self", "gone"} {
		if text := strings.Join(warned, "\n"); !strings.Contains(text, name) {
			t.Errorf("no warning of %q: %s", name, text)
		}
	}
}

// TestChanged: a file that is another one than that of the plan is an error with its name.
func TestChanged(t *testing.T) {
	ctx := context.Background()
	for name, change := range map[string]func(path string) error{
		"shorter": func(p string) error { return os.Truncate(p, 10) },
		"longer":  func(p string) error { return os.Truncate(p, 20<<10) },
		"time":    func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(1e9, 0)) },
		"gone":    os.Remove,
		"link": func(p string) error {
			return errors.Join(os.Rename(p, p+"2"), os.Symlink("/etc/passwd", p))
		},
		"folder": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "file.txt")
		content := make([]byte, 9000)
		testkit.Fill(testkit.Rand(1), content)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		n := open(t, opts.Dict{"dir": dir}, false)
		if err := change(path); err != nil {
			t.Fatal(err)
		}
		_, err := n.ReadAt(ctx, make([]byte, 512), 307200)
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		finish(t, n)
	}
}

// TestChangedWhileOpen: a file that is open already.
func TestChangedWhileOpen(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	path := filepath.Join(dir, "file.txt")
	if err := os.WriteFile(path, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := open(t, opts.Dict{"dir": dir}, false)
	const first = 307200 // cluster 2
	b := make([]byte, 512)
	if _, err := n.ReadAt(ctx, b, first); err != nil || string(b[:8]) != "content\x00" {
		t.Fatalf("%q %v", b[:8], err)
	}
	if err := os.WriteFile(path, []byte("other, and longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := n.ReadAt(ctx, b, first); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%q %v", b[:20], err)
	}
	finish(t, n)
}

// TestManyFiles: more files than are open at a time, read by several readers.
func TestManyFiles(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	for i := range 60 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("F", i)), fmt.Appendf(nil, "content of %d", i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n := open(t, opts.Dict{"dir": dir}, false)
	var wg sync.WaitGroup
	for w := range uint64(4) {
		wg.Go(func() {
			r := testkit.Rand(w)
			for range 200 {
				b := make([]byte, 512)
				i := r.Int64N(60)
				_, err := n.ReadAt(ctx, b, 307200+i*8192)
				if err != nil || !bytes.HasPrefix(b, []byte("content of ")) {
					t.Errorf("file %d: %q %v", i, b[:20], err)
				}
			}
		})
	}
	wg.Wait()
	finish(t, n)
}
