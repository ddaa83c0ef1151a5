package differential

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// vvfatLines are command lines in a folder with a small folder d, where both programs say the same.
const vvfatLines = `
info fat:d
info --output=json fat:d
info fat:floppy:d
info fat:floppy:12:d
info --output=json fat:floppy:16:d
info fat:12:d
info fat:16:d
info fat:14:d
info fat:16:12:d
info fat:d:
info fat:nowhere
info fat:
info fat:d/file.txt
info fat:rw:d
info --output=json fat:rw:floppy:d
info -f vvfat fat:d
info -f vvfat d
info -f raw fat:d
info -f qcow2 fat:d
info -f vvfat fad:d
info --image-opts driver=vvfat,dir=d
info --image-opts driver=vvfat,dir=d,floppy=on,label=X
info --image-opts driver=vvfat,dir=d,fat-type=12
info --image-opts driver=vvfat,dir=d,fat-type=14
info --image-opts driver=vvfat,dir=d,fat-type=x
info --image-opts driver=vvfat,dir=d,floppy=x
info --image-opts driver=vvfat,dir=d,label=abcdefghijkl
info --image-opts driver=vvfat,dir=nowhere
info --image-opts driver=vvfat,dir=d,rw=on
info --image-opts driver=vvfat
info --image-opts driver=raw,file.driver=vvfat,file.dir=d
info 'json:{"driver":"vvfat","dir":"d"}'
info 'json:{"driver":"vvfat","dir":"d","fat-type":16,"floppy":true}'
info 'json:{"driver":"vvfat","dir":"d","fat-type":33}'
info 'json:{"driver":"vvfat","dir":"d","x":1}'
info 'json:{"driver":"vvfat"}'
info 'json:{"driver":"vvfat","dir":"d","label":"abcdefghijkl"}'
check fat:d
compare fat:floppy:d fat:floppy:d
compare fat:floppy:d fat:floppy:12:d
snapshot -l fat:d
snapshot -c x fat:d
resize fat:d 1G
create fat:d 1M
create -f vvfat fat:d 1M
create -f vvfat -o help
create -f qcow2 -b fat:d -F raw over.qcow2
amend -f vvfat -o x=1 fat:d
convert -O vvfat d/file.txt fat:d
convert -O raw fat:nowhere out.raw
measure --size 1G -O vvfat
bench -c 1 -s 512 fat:d
bench -w -c 1 -s 512 fat:d
dd if=fat:d of=out.raw bs=512 count=1
dd if=fat:floppy:d of=out.raw bs=1M
`

// vvfatFolder makes the folder d in a folder.
func vvfatFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, "d", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestVVFATCommands(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	for line := range strings.Lines(vvfatLines) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		files := map[string]string{"file.txt": "content", "sub/inner.txt": "inner"}
		want := runIn(t, vvfatFolder(t, files), tools.img, words(line)...)
		got := runIn(t, vvfatFolder(t, files), tools.ours, words(line)...)
		if got.code != want.code || !sameOutput(got.stdout, want.stdout) || normal(got.stderr) != normal(want.stderr) {
			t.Errorf("%s:\n%d %s%s\nwant\n%d %s%s", line, got.code, got.stdout, got.stderr, want.code, want.stdout, want.stderr)
		}
	}
}

// vvfatRead takes all files out of the file system in a raw image.
func vvfatRead(t *testing.T, image string, start int64) map[string]string {
	t.Helper()
	mcopy, dir := testkit.Tool(t, "mcopy"), filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(mcopy, "-i", fmt.Sprintf("%s@@%d", image, start), "-s", "-p", "-m", "-Q", "::/*", dir)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mcopy: %v %s", err, out)
	}
	return vvfatFiles(t, dir, true)
}

// vvfatFiles returns the files in a folder, with the time of their change if timed.
func vvfatFiles(t *testing.T, dir string, timed bool) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, path := range tree(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if files[path] = string(b); timed {
			files[path] += info.ModTime().Truncate(2 * time.Second).String()
		}
	}
	return files
}

// TestVVFATContents: what mtools read from our disks is what they read from QEMU's.
func TestVVFATContents(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	for seed := range uint64(testkit.Count(4)) {
		r := testkit.Rand(seed)
		files := map[string]string{}
		for i := range 20 {
			b := make([]byte, r.IntN(30000))
			testkit.Fill(r, b)
			name := []string{fmt.Sprintf("FILE%d.TXT", i), fmt.Sprintf("A long name %d.html", i), fmt.Sprintf("dir%d/grün.c", i/6), fmt.Sprintf("DIR/SUB%d/f.x", i/8), fmt.Sprintf("empty%d", i)}[r.IntN(5)]
			if strings.HasPrefix(name, "empty") {
				b = nil
			}
			files[name] = string(b)
		}
		dir := vvfatFolder(t, files)
		kind := []string{"", "12:", "floppy:", "16:"}[seed%4]
		var got [2]map[string]string
		for i, program := range []string{tools.img, tools.ours} {
			image := filepath.Join(dir, fmt.Sprint("image", i))
			if o := runIn(t, dir, program, "convert", "-O", "raw", "fat:"+kind+"d", image); o.code != 0 {
				t.Fatalf("%s: %s", program, o.stderr)
			}
			got[i] = vvfatRead(t, image, map[bool]int64{true: 0, false: 63 * 512}[kind == "floppy:"])
		}
		if !maps.Equal(got[0], got[1]) || !maps.Equal(got[1], vvfatFiles(t, filepath.Join(dir, "d"), true)) {
			t.Errorf("seed %d: %q, want %q", seed, slices.Sorted(maps.Keys(got[1])), slices.Sorted(maps.Keys(got[0])))
		}
	}
}

// TestVVFATWrites: new files, made with mtools in what each program shows, are the same in the
// folder. QEMU's qemu-io fails assertions when files grow or are overwritten.
func TestVVFATWrites(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	local, oursIO := filepath.Join(t.TempDir(), "local"), filepath.Join(t.TempDir(), "qemu-io")
	if err := os.Symlink(tools.ours, oursIO); err != nil {
		t.Fatal(err)
	}
	ios := [2]string{tools.io, oursIO}
	if err := os.WriteFile(local, bytes.Repeat([]byte("new content "), 200), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][]string{
		{"mcopy", local, "::/NEW.TXT"},
		{"mcopy", local, "::/a new file.html"},
	} {
		var got [2]map[string]string
		for i, program := range []string{tools.img, tools.ours} {
			dir := vvfatFolder(t, map[string]string{"file.txt": "content", "other": "left alone"})
			before, after := filepath.Join(dir, "before"), filepath.Join(dir, "after")
			if o := runIn(t, dir, program, "convert", "-O", "raw", "fat:12:d", before); o.code != 0 {
				t.Fatal(o.stderr)
			}
			old, err := os.ReadFile(before)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(after, old, 0o644); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"-i", after + "@@32256"}, change[1:]...)
			if out, err := exec.Command(testkit.Tool(t, change[0]), args...).CombinedOutput(); err != nil {
				t.Fatalf("%q: %v %s", change, err, out)
			}
			now, err := os.ReadFile(after)
			if err != nil {
				t.Fatal(err)
			}
			session := []string{"-f", "raw"}
			for off := 0; off < len(now); off += 512 {
				if bytes.Equal(now[off:off+512], old[off:off+512]) {
					continue
				}
				name := fmt.Sprint("sector", off)
				if err := os.WriteFile(filepath.Join(dir, name), now[off:off+512], 0o644); err != nil {
					t.Fatal(err)
				}
				session = append(session, "-c", fmt.Sprintf("write -q -s %s %d 512", name, off))
			}
			session = append(session, "-c", "flush", "fat:rw:12:d")
			if o := runIn(t, dir, ios[i], session...); o.code != 0 || o.stdout != "" {
				t.Fatalf("%s: %s %s", program, o.stdout, o.stderr)
			}
			got[i] = vvfatFiles(t, filepath.Join(dir, "d"), false) // QEMU does not set times
		}
		if !maps.Equal(got[0], got[1]) || len(got[1]) < 3 {
			t.Errorf("%q: %.300q, want %.300q", change, got[1], got[0])
		}
	}
}
