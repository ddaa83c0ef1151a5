package vvfat_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/fstree/treetest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// guest is somebody who has the disk: mtools work on a copy of its volume, and what they change
// is written to the disk.
type guest struct {
	t      testing.TB
	n      driver.Storage
	from   int64 // of the volume
	path   string
	before map[int64][]byte // sectors of the volume that are not zero
}

func newGuest(t testing.TB, o opts.Dict) *guest {
	t.Helper()
	n := open(t, o, true)
	g := &guest{t: t, n: n, from: start(o), path: volume(t, n, start(o))}
	g.before = sectors(t, g.path)
	return g
}

// sectors reads those of a file that are not zero.
func sectors(t testing.TB, path string) map[int64][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	all, b, zero := map[int64][]byte{}, make([]byte, 1<<20), make([]byte, 512)
	for off := int64(0); off < info.Size(); off += int64(len(b)) {
		if runtime.GOOS == "linux" { // holes are zero; where they are not known, all is data
			const seekData = 3
			next, err := f.Seek(off, seekData)
			if errors.Is(err, syscall.ENXIO) {
				break
			}
			if err == nil {
				off = max(off, next/512*512)
			}
		}
		n, _ := f.ReadAt(b, off)
		for i := 0; i+512 <= n; i += 512 {
			if !bytes.Equal(b[i:i+512], zero) {
				all[(off+int64(i))/512] = bytes.Clone(b[i : i+512])
			}
		}
	}
	return all
}

func (g *guest) do(name string, args ...string) {
	g.t.Helper()
	if out, err := mtool(g.t, name, append([]string{"-i", g.path}, args...)...).CombinedOutput(); err != nil {
		g.t.Fatalf("%s %q: %v %s", name, args, err, out)
	}
}

// write brings what has changed to the disk, in any order, and calls between now and then.
func (g *guest) write(r *rand.Rand, between func()) {
	g.t.Helper()
	after := sectors(g.t, g.path)
	var changed []int64
	for s, b := range after {
		if !bytes.Equal(b, g.before[s]) {
			changed = append(changed, s)
		}
	}
	for s := range g.before {
		if after[s] == nil {
			changed = append(changed, s)
		}
	}
	slices.Sort(changed)
	r.Shuffle(len(changed), func(i, j int) { changed[i], changed[j] = changed[j], changed[i] })
	for i, s := range changed {
		b := after[s]
		if b == nil {
			b = make([]byte, 512)
		}
		if _, err := g.n.WriteAt(context.Background(), b, g.from+s*512); err != nil {
			g.t.Fatal(err)
		}
		if between != nil && i%(len(changed)/3+1) == 0 {
			between()
		}
	}
	g.before = after
}

func (g *guest) flush() {
	g.t.Helper()
	if err := g.n.Flush(context.Background()); err != nil {
		g.t.Fatal(err)
	}
}

// list returns the names in the folder, "/" after those of folders.
func list(t testing.TB, dir string) (files []string, folders []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, path); err == nil && rel != "." {
			if d.IsDir() {
				folders = append(folders, rel)
			} else {
				files = append(files, rel)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, folders
}

// step makes a random change with mtools.
func (g *guest) step(r *rand.Rand, dir string, serial int, most int64) {
	files, folders := list(g.t, dir)
	pick := func(of []string) string { return "::/" + of[r.IntN(len(of))] }
	in := "::/"
	if len(folders) > 0 && r.IntN(3) > 0 {
		in = pick(folders) + "/"
	}
	local := filepath.Join(g.t.TempDir(), fmt.Sprintf("New File %d.data", serial))
	b := make([]byte, r.Int64N(most))
	testkit.Fill(r, b)
	if err := os.WriteFile(local, b, 0o644); err != nil {
		g.t.Fatal(err)
	}
	when := time.Date(2001, 6, 1+r.IntN(28), 1, 2, 4, 0, time.Local)
	if err := os.Chtimes(local, when, when); err != nil {
		g.t.Fatal(err)
	}
	switch k := r.IntN(8); {
	case k == 0 && len(files) > 0:
		g.do("mdel", pick(files))
	case k == 1 && len(files) > 0: // another content
		g.do("mcopy", "-m", "-o", local, pick(files))
	case k == 2 && len(files) > 0:
		f := pick(files)
		g.do("mren", f, f[:strings.LastIndexByte(f, '/')+1]+fmt.Sprintf("Renamed %d.x", serial))
	case k == 3 && len(files) > 0 && in != "::/":
		g.do("mmove", pick(files), in+fmt.Sprintf("moved file %d", serial))
	case k == 4:
		g.do("mmd", in+fmt.Sprintf("Folder %d", serial))
	case k == 5 && len(folders) > 0:
		f := pick(folders)
		g.do("mren", f, f[:strings.LastIndexByte(f, '/')+1]+fmt.Sprintf("directory%d", serial))
	case k == 6 && len(folders) > 1:
		g.do("mdeltree", pick(folders))
	default:
		g.do("mcopy", "-m", local, in)
	}
}

// TestGuestWrites: what mtools make of the disk is in the folder after a flush, whatever was
// flushed before that was not all of it.
func TestGuestWrites(t *testing.T) {
	// Small disks first: the others take a second each.
	disks := []opts.Dict{variants[3], variants[1], variants[6], variants[0], variants[2], variants[4], variants[5]}
	everyday := 3
	if testkit.Long() {
		everyday = len(disks)
	}
	for seed := range uint64(testkit.Count(everyday)) {
		r := testkit.Rand(seed)
		dir := t.TempDir()
		o := withDir(disks[seed%uint64(len(disks))], dir)
		o["rw"] = "on"
		most := int64(60 << 10)
		if o["floppy"] == "on" {
			most = 10 << 10
		}
		fillFolder(t, r, dir, 15, most)
		g := newGuest(t, o)
		what := fmt.Sprintf("seed %d, %v", seed, o)
		serial := 0
		for range 4 {
			for range 1 + r.IntN(4) {
				// The folder is behind the volume here: names come from what is sure to be there.
				serial++
				before := folderOf(t, g)
				g.step(r, before, serial, most)
			}
			g.write(r, g.flush)
			g.flush()
			treetest.Equal(t, what, copyOut(t, g.path), tree(t, dir), asFAT)
			if t.Failed() {
				return
			}
		}
		// All is still there through the disk.
		again := volume(t, g.n, g.from)
		fsck(t, what, again)
		treetest.Equal(t, what+", the disk", tree(t, dir), copyOut(t, again), asFAT)
		finish(t, g.n)
		n := open(t, withDir(disks[seed%uint64(len(disks))], dir), false)
		treetest.Equal(t, what+", opened again", tree(t, dir), copyOut(t, volume(t, n, g.from)), asFAT)
		finish(t, n)
	}
}

// folderOf takes the volume as it is now out into a folder.
func folderOf(t testing.TB, g *guest) string {
	t.Helper()
	root, dir := copyOut(t, g.path), t.TempDir()
	skeleton(t, root, dir)
	return dir
}

// skeleton makes folders and empty files.
func skeleton(t testing.TB, d *fstree.Node, dir string) {
	t.Helper()
	for _, c := range d.Children() {
		path := filepath.Join(dir, c.Name)
		if c.Node.Kind != fstree.Dir {
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		skeleton(t, c.Node, path)
	}
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestSwap: names that change places.
func TestSwap(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a"), "content of a")
	put(t, filepath.Join(dir, "b"), "content of b")
	put(t, filepath.Join(dir, "d", "inner", "x"), "x")
	g := newGuest(t, opts.Dict{"dir": dir, "rw": "on"})
	g.do("mren", "::/a", "::/c")
	g.do("mren", "::/b", "::/a")
	g.do("mren", "::/c", "::/b")
	g.do("mmove", "::/d/inner", "::/")
	g.do("mmove", "::/d", "::/inner/")
	g.write(testkit.Rand(1), nil)
	finish(t, g.n)
	files, folders := list(t, dir)
	if got := fmt.Sprint(files, folders, read(t, dir+"/a"), read(t, dir+"/b")); got != "[a b inner/x] [inner inner/d]content of bcontent of a" {
		t.Error(got)
	}
}

// TestPermissions: what a file has in the folder stays, and "read-only" goes both ways.
func TestPermissions(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]fs.FileMode{"tool": 0o750, "locked": 0o444, "open": 0o644} {
		put(t, filepath.Join(dir, name), name)
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	g := newGuest(t, opts.Dict{"dir": dir, "rw": "on"})
	local := filepath.Join(t.TempDir(), "tool")
	put(t, local, "another tool")
	g.do("mcopy", "-o", local, "::/")
	g.do("mattrib", "-r", "::/locked")
	g.do("mattrib", "+r", "::/open")
	g.write(testkit.Rand(1), nil)
	finish(t, g.n)
	for name, want := range map[string]fs.FileMode{"tool": 0o750, "locked": 0o644, "open": 0o444} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	if got := read(t, dir+"/tool"); got != "another tool" {
		t.Error(got)
	}
}

// TestUnseen: what the guest does not see, or what has changed in the folder meanwhile, is
// neither replaced nor removed, and what the guest has written is kept.
func TestUnseen(t *testing.T) {
	for name, c := range map[string]struct {
		host func(t *testing.T, dir string)
		do   func(g *guest, local string)
		want string // error
	}{
		"a file that came later":          {func(t *testing.T, dir string) { put(t, dir+"/new", "of the host") }, func(g *guest, local string) { g.do("mcopy", local, "::/new") }, "does not see"},
		"a file that has changed":         {func(t *testing.T, dir string) { put(t, dir+"/file", "of the host") }, func(g *guest, local string) { g.do("mcopy", "-o", local, "::/file") }, "has changed"},
		"a file that was removed":         {func(t *testing.T, dir string) { os.Remove(dir + "/file") }, func(g *guest, local string) { g.do("mcopy", "-o", local, "::/file") }, "no such file"},
		"a folder with new content":       {func(t *testing.T, dir string) { put(t, dir+"/sub/new", "of the host") }, func(g *guest, local string) { g.do("mdeltree", "::/sub") }, ""},
		"a deleted file that has changed": {func(t *testing.T, dir string) { put(t, dir+"/file", "of the host") }, func(g *guest, local string) { g.do("mdel", "::/file") }, ""},
		"a link":                          {func(t *testing.T, dir string) {}, func(g *guest, local string) { g.do("mcopy", local, "::/link") }, "does not see"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, kept := t.TempDir(), t.TempDir()
			t.Setenv("TMPDIR", kept)
			put(t, dir+"/file", "content")
			put(t, dir+"/sub/inner", "content")
			if err := os.Symlink("file", dir+"/link"); err != nil {
				t.Skip(err)
			}
			g := newGuest(t, opts.Dict{"dir": dir, "rw": "on"})
			local := filepath.Join(t.TempDir(), "x")
			put(t, local, "of the guest")
			c.do(g, local)
			g.write(testkit.Rand(1), nil)
			c.host(t, dir)
			before := tree(t, dir)
			for range 2 { // a second time is the same
				if err := g.n.Flush(context.Background()); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
			}
			err := g.n.Close(context.Background())
			if (err == nil) != (c.want == "") {
				t.Error(err)
			}
			after := tree(t, dir)
			if c.want == "" { // what the guest alone knew is gone
				if name == "a folder with new content" {
					before = tree(t, dir)
					if got := read(t, dir+"/sub/inner"); !strings.Contains(got, "no such file") {
						t.Error(got)
					}
				}
				if name == "a folder with new content" && read(t, dir+"/sub/new") != "of the host" || strings.HasPrefix(name, "a deleted") && read(t, dir+"/file") != "of the host" {
					t.Error("removed what was not the guest's")
				}
			}
			treetest.Equal(t, name, before, after, fstree.Comparison{Ignore: func(_ string, n *fstree.Node) {
				if n.Kind == fstree.Dir {
					n.ModTime = time.Time{}
				}
			}})
			images, _ := filepath.Glob(filepath.Join(kept, "*"))
			if c.want == "" {
				if len(images) > 0 {
					t.Errorf("left behind: %q", images)
				}
				return
			}
			if len(images) != 1 || !strings.Contains(err.Error(), images[0]) {
				t.Fatalf("kept: %q; %v", images, err)
			}
			if name == "a file that came later" || name == "a link" {
				out, err := mtool(t, "mtype", "-i", images[0]+"@@32256", map[bool]string{true: "::/link", false: "::/new"}[name == "a link"]).Output()
				if err != nil || string(out) != "of the guest" {
					t.Errorf("in the image: %q %v", out, err)
				}
			}
		})
	}
}

// TestInconsistent: nothing happens while chains are not whole; at the end the disk is kept.
func TestInconsistent(t *testing.T) {
	ctx := context.Background()
	dir, kept := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", kept)
	put(t, dir+"/A", strings.Repeat("a", 20000))
	put(t, dir+"/B", strings.Repeat("b", 20000))
	g := newGuest(t, opts.Dict{"dir": dir, "rw": "on"})
	table, root := g.from+512, g.from+512+2*252*512
	sector := func(off int64) []byte {
		b := make([]byte, 512)
		if _, err := g.n.ReadAt(ctx, b, off); err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(b []byte, off int64) {
		t.Helper()
		if _, err := g.n.WriteAt(ctx, b, off); err != nil {
			t.Fatal(err)
		}
		g.flush()
	}
	good := sector(table)
	entries := sector(root)
	if string(entries[32:33]) != "A" || good[4] != 3 {
		t.Fatalf("%q % x", entries[:64], good[:20])
	}
	// "A" is deleted in its directory, and its clusters are lost for now.
	deleted := bytes.Clone(entries)
	deleted[32] = 0xe5
	write(deleted, root)
	// Chains: a loop, one that meets another, one that leads out, one too short.
	for _, b := range [][2]byte{{4, 2}, {6, 5}, {6, 0xf0}, {4, 0}} {
		bad := bytes.Clone(good)
		bad[b[0]] = b[1]
		if b[1] == 0xf0 {
			bad[b[0]+1] = 0xfe
		}
		write(entries, root)
		write(bad, table)
		if files, _ := list(t, dir); len(files) != 2 || read(t, dir+"/A") != strings.Repeat("a", 20000) {
			t.Fatalf("%v: %q", b, files)
		}
	}
	write(deleted, root)
	write(good, table)
	if files, _ := list(t, dir); len(files) != 2 {
		t.Fatalf("%q", files)
	}
	freed := bytes.Clone(good)
	copy(freed[4:10], make([]byte, 6))
	write(freed, table)
	if files, _ := list(t, dir); len(files) != 1 || files[0] != "B" {
		t.Fatalf("%q", files)
	}
	loop := bytes.Clone(freed)
	loop[10] = 5
	write(loop, table)
	err := g.n.Close(ctx)
	images, _ := filepath.Glob(filepath.Join(kept, "*"))
	if err == nil || len(images) != 1 || !strings.Contains(err.Error(), images[0]) {
		t.Errorf("%v %q", err, images)
	}
	if read(t, dir+"/B") != strings.Repeat("b", 20000) {
		t.Error("B has changed")
	}
}

// TestLostAtTheEnd: at the end, what is new is taken from a file system with lost clusters, and
// nothing is removed.
func TestLostAtTheEnd(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	put(t, dir+"/A", "a")
	g := newGuest(t, opts.Dict{"dir": dir, "rw": "on"})
	local := filepath.Join(t.TempDir(), "x")
	put(t, local, "of the guest")
	g.do("mcopy", local, "::/new")
	g.write(testkit.Rand(1), nil)
	root := g.from + 512 + 2*252*512
	b := make([]byte, 512)
	if _, err := g.n.ReadAt(ctx, b, root); err != nil {
		t.Fatal(err)
	}
	b[32] = 0xe5
	if _, err := g.n.WriteAt(ctx, b, root); err != nil {
		t.Fatal(err)
	}
	g.flush()
	if files, _ := list(t, dir); len(files) != 1 {
		t.Errorf("%q", files)
	}
	finish(t, g.n)
	if read(t, dir+"/A") != "a" || read(t, dir+"/new") != "of the guest" {
		t.Error(list(t, dir))
	}
}

func TestWriteBounds(t *testing.T) {
	ctx := context.Background()
	n := open(t, opts.Dict{"dir": t.TempDir(), "rw": "on", "floppy": "on"}, true)
	for off, kind := range map[int64]error{n.Size(): driver.ErrRange, -512: driver.ErrInvalid, 100: driver.ErrInvalid} {
		if _, err := n.WriteAt(ctx, make([]byte, 512), off); !errors.Is(err, kind) {
			t.Errorf("at %d: %v", off, err)
		}
	}
	finish(t, n)
}

// countdown is a context that ends when it has been asked a number of times.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestCutShort: a flush that ends anywhere leaves each content that was in the folder, under its
// name, its new name or a temporary one, and the next flush does the rest.
func TestCutShort(t *testing.T) {
	step := 3
	if testkit.Long() {
		step = 1
	}
	for k, done := 0, false; !done; k += step {
		dir := t.TempDir()
		old := map[string]string{"the file a": "content of a", "the file b": "content of b", "d/the inner/x": "content of x", "delete": "deleted", "change": "content to change", "to be moved": "content to move"}
		for name, text := range old {
			put(t, filepath.Join(dir, name), text)
		}
		g := newGuest(t, opts.Dict{"dir": dir, "rw": "on", "floppy": "on"})
		local := filepath.Join(t.TempDir(), "new")
		put(t, local, "new content")
		g.do("mren", "::/the file a", "::/the file c")
		g.do("mren", "::/the file b", "::/the file a")
		g.do("mren", "::/the file c", "::/the file b")
		g.do("mmove", "::/d/the inner", "::/")
		g.do("mdel", "::/delete")
		g.do("mcopy", "-o", local, "::/change")
		g.do("mcopy", local, "::/new")
		g.do("mmove", "::/to be moved", "::/d")
		g.write(testkit.Rand(1), nil)
		err := g.n.Flush(&countdown{context.Background(), k})
		if done = err == nil; !done && !errors.Is(err, context.Canceled) {
			t.Fatalf("%d: %v", k, err)
		}
		have := map[string]bool{}
		files, _ := list(t, dir)
		for _, f := range files {
			have[read(t, filepath.Join(dir, f))] = true
		}
		for _, text := range old {
			if !have[text] && text != "deleted" && (text != "content to change" || !have["new content"]) {
				t.Fatalf("%d: %q is lost: %q", k, text, files)
			}
		}
		if k > 1000 {
			t.Fatal("it never ends")
		}
		g.flush()
		treetest.Equal(t, fmt.Sprint("the rest after ", k), copyOut(t, g.path), tree(t, dir), asFAT)
		finish(t, g.n)
		if t.Failed() {
			return
		}
	}
}

// TestRandomWrites: the disk is what was written to it, whatever that is, and the folder does not
// change.
func TestRandomWrites(t *testing.T) {
	ctx := context.Background()
	dir, kept := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", kept)
	r := testkit.Rand(7)
	fillFolder(t, r, dir, 20, 20<<10)
	before := tree(t, dir)
	n := open(t, opts.Dict{"dir": dir, "rw": "on", "floppy": "on"}, true)
	m := testkit.NewModel(n.Size())
	all := make([]byte, n.Size())
	if _, err := n.ReadAt(ctx, all, 0); err != nil {
		t.Fatal(err)
	}
	m.Write(all, 0)
	m.Write(make([]byte, 512), 0) // no boot sector
	if err := n.(driver.ZeroWriter).WriteZeroes(ctx, 0, 512, 0); err != nil {
		t.Fatal(err)
	}
	sectors := n.Size() / 512
	for range 300 {
		first := 1 + r.Int64N(sectors-1)
		count := min(1+r.Int64N(200), sectors-first)
		if r.IntN(2) == 0 {
			b := make([]byte, count*512)
			testkit.Fill(r, b)
			if _, err := n.WriteAt(ctx, b, first*512); err != nil {
				t.Fatal(err)
			}
			m.Write(b, first*512)
		} else {
			if err := n.(driver.ZeroWriter).WriteZeroes(ctx, first*512, count*512, 0); err != nil {
				t.Fatal(err)
			}
			m.Zero(first*512, count*512)
		}
		off := r.Int64N(n.Size() - 1)
		b := make([]byte, min(1+r.Int64N(50000), n.Size()-off))
		if _, err := n.ReadAt(ctx, b, off); err != nil {
			t.Fatal(err)
		}
		if diff := m.Diff(b, off); diff != "" {
			t.Fatal(diff)
		}
	}
	if err := n.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	err := n.Close(ctx)
	images, _ := filepath.Glob(filepath.Join(kept, "*"))
	if err == nil || len(images) != 1 {
		t.Fatalf("%v %q", err, images)
	}
	if got := read(t, images[0]); int64(len(got)) != n.Size() || m.Diff([]byte(got), 0) != "" {
		t.Errorf("the image has %d bytes: %s", len(got), m.Diff([]byte(got), 0))
	}
	treetest.Equal(t, "the folder", before, tree(t, dir), fstree.Comparison{})
}

// TestInPlace: a sector in the middle of a file; the rest of it comes from the new file afterwards.
func TestInPlace(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	want := bytes.Repeat([]byte("0123456789abcdef"), 2000)
	put(t, dir+"/A", string(want))
	n := open(t, opts.Dict{"dir": dir, "rw": "on"}, true)
	const first = 307200 // cluster 2
	got := make([]byte, len(want))
	if _, err := n.ReadAt(ctx, got, first); err != nil || !bytes.Equal(got, want) {
		t.Fatal("before: ", err)
	}
	b := bytes.Repeat([]byte("X"), 512)
	copy(want[1024:], b)
	if _, err := n.WriteAt(ctx, b, first+1024); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := n.ReadAt(ctx, got, first); err != nil || !bytes.Equal(got, want) {
			t.Fatal("after: ", err)
		}
		if read(t, dir+"/A") != string(want) {
			t.Fatal("the file has another content")
		}
	}
	finish(t, n)
}

// TestRoom: a disk that can be written has some room.
func TestRoom(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/large", "")
	if err := os.Truncate(dir+"/large", 480<<20); err != nil {
		t.Skip(err)
	}
	for _, kind := range []string{"0", "16", "32"} {
		for _, rw := range []bool{false, true} {
			n := open(t, opts.Dict{"dir": dir, "fat-type": kind, "rw": rw}, rw)
			if large := n.Size() > 528482304; large != rw {
				t.Errorf("FAT%s, rw %v: %d bytes", kind, rw, n.Size())
			}
			finish(t, n)
		}
	}
}
