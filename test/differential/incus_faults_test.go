package differential

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// imageCommand is a command line that writes an image into the folder out of its working
// directory.
type imageCommand struct {
	name string
	args []string
}

// imageCommands prepares a folder in which each of our commands can make an image of
// some megabytes.
func imageCommands(t *testing.T) (program, dir string, list []imageCommand) {
	t.Helper()
	program, dir = packer(t)
	tree := richRoot(t)
	content := make([]byte, 5<<20)
	testkit.FillDisk(testkit.Rand(1), content)
	if _, err := tree.PutFile("usr/lib/large", content, time.Unix(1700000000, 0)); err != nil {
		t.Fatal(err)
	}
	succeed(t, dir, "gzip", "-1", rootArchive(t, dir, tree)) // so that contents go to a temporary file
	build := strings.Replace(definition, "rootfs-http", "rootfs-http, url: 'file://"+filepath.Join(dir, "root.tar.gz")+"'", 1)
	if err := os.WriteFile(filepath.Join(dir, "build.yaml"), []byte(build), 0o644); err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(filepath.Dir(program), "cowl")
	if err := os.Symlink(program, ours); err != nil {
		t.Fatal(err)
	}
	succeed(t, dir, ours, strings.Fields("pack-incus d.yaml root.tar.gz packed --compression gzip-1")...)
	for name, line := range map[string]string{"split": "pack-incus d.yaml root.tar.gz out --compression gzip-1", "unified": "pack-incus d.yaml root.tar.gz out --type unified --compression none",
		"vm": "pack-incus d.yaml root.tar.gz out --vm --boot none --compression zstd-1", "build": "build-incus build.yaml out --sources-dir sources --compression lz4",
		"repack": "repack-incus packed/incus.tar.gz packed/rootfs.squashfs out --compression zstd-1"} {
		list = append(list, imageCommand{name, strings.Fields(line)})
	}
	slices.SortFunc(list, func(a, b imageCommand) int { return strings.Compare(a.name, b.name) })
	return ours, dir, list
}

// sums returns the digests of the files of a folder whose names do not begin with a dot.
func sums(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	list := map[string][32]byte{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		list[e.Name()] = sha256.Sum256(b)
	}
	return list
}

func sameSums(a, b map[string][32]byte) bool {
	for name, sum := range a {
		if b[name] != sum {
			return false
		}
	}
	return len(a) == len(b)
}

// TestIncusKilled kills each command at some moment. Each file in the folder is then the one that
// was there before or the whole new one, and the next run makes the image.
func TestIncusKilled(t *testing.T) {
	ours, dir, commands := imageCommands(t)
	out, r, killed := filepath.Join(dir, "out"), testkit.Rand(2), 0
	for _, c := range commands {
		begin := time.Now()
		succeed(t, dir, ours, c.args...)
		took := time.Since(begin)
		want := sums(t, out)
		for range testkit.Count(1) {
			if err := os.RemoveAll(out); err != nil {
				t.Fatal(err)
			}
			before := map[string][32]byte{}
			if r.IntN(3) > 0 { // an image of another day is there
				if err := os.Mkdir(out, 0o755); err != nil {
					t.Fatal(err)
				}
				for name := range want {
					if err := os.WriteFile(filepath.Join(out, name), []byte("before"), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				before = sums(t, out)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.Int64N(int64(took)+1)))
			cmd := exec.CommandContext(ctx, ours, c.args...) // ended by SIGKILL
			cmd.Dir = dir
			err := cmd.Run()
			cancel()
			if err != nil {
				killed++
			}
			for name, sum := range sums(t, out) {
				if sum != want[name] && sum != before[name] {
					t.Errorf("%s, killed: %s is neither what was there nor the image", c.name, name)
				}
			}
			if err == nil {
				continue
			}
			succeed(t, dir, ours, c.args...)
			if got := sums(t, out); !sameSums(got, want) {
				t.Errorf("%s: after a run that was killed, the next makes %v", c.name, got)
			}
		}
		if err := os.RemoveAll(out); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d runs were killed before their end", killed)
}

// TestIncusFullDisk runs each command into a file system that is full soon, or whose
// temporary files have no room. It fails, says so and leaves what was there, and
// nothing else; with more room it succeeds.
func TestIncusFullDisk(t *testing.T) {
	ours, dir, commands := imageCommands(t)
	disk := testkit.Mount(t, "tmpfs", "32M")
	out, ballast := filepath.Join(dir, "out"), filepath.Join(disk, "ballast")
	target, temporary := filepath.Join(disk, "out"), filepath.Join(disk, "temporary")
	for _, c := range commands {
		succeed(t, dir, ours, c.args...)
		want := sums(t, out)
		if err := os.RemoveAll(out); err != nil {
			t.Fatal(err)
		}
		args := slices.Clone(c.args)
		args[slices.Index(args, "out")] = target
		for _, left := range []int{0, 1 << 20} {
			for _, d := range []string{target, temporary} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for name := range want {
				if err := os.WriteFile(filepath.Join(target, name), []byte("before"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			before := sums(t, target)
			if err := os.WriteFile(ballast, bytes.Repeat([]byte("x"), 32<<20), 0o644); err == nil {
				t.Fatal("the file system is larger than it should be")
			}
			info, err := os.Stat(ballast)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(ballast, info.Size()-int64(left)); err != nil {
				t.Fatal(err)
			}
			if o := runIn(t, dir, ours, args...); o.code != 1 || !strings.Contains(o.stderr, "no space left on device") || strings.Count(o.stderr, "\n") != 1 {
				t.Errorf("%s with %d bytes of room: %+v", c.name, left, o)
			}
			if list, err := os.ReadDir(target); err != nil || len(list) != len(want) || !sameSums(sums(t, target), before) {
				t.Errorf("%s with %d bytes of room leaves %v, %v", c.name, left, list, err)
			}
			if o := runIn(t, dir, ours, append(slices.Clone(c.args), "--cache-dir", temporary)...); c.name != "repack" && (o.code != 1 || !strings.Contains(o.stderr, "no space left on device")) {
				t.Errorf("%s with %d bytes of room for temporary files: %+v", c.name, left, o)
			}
			if list, err := os.ReadDir(temporary); err != nil || len(list) > 0 {
				t.Errorf("%s leaves temporary files: %v, %v", c.name, list, err)
			}
			if err := os.RemoveAll(out); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		}
		succeed(t, dir, ours, args...)
		if got := sums(t, target); !sameSums(got, want) {
			t.Errorf("%s: with room it makes %v", c.name, got)
		}
		if err := os.RemoveAll(target); err != nil {
			t.Fatal(err)
		}
	}
}
