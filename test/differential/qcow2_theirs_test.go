package differential

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestQcow2Theirs lets QEMU make and change images of all kinds. We read
// and describe them as it does, and go on writing them: it finds nothing to
// complain about then, and its internal snapshots stay as they were.
func TestQcow2Theirs(t *testing.T) {
	testkit.Tool(t, "qemu-io")
	for seed := range matrixImages(80) {
		r := testkit.Rand(1000 + uint64(seed))
		s := pickSpec(r)
		t.Run(fmt.Sprint(seed, " ", s), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "image")
			s.makeBase(t, r, dir)
			makeByOriginal(t, r, s, dir, path)
			snapshots := map[string][]byte{}
			for round := range 2 {
				changeByOriginal(t, r, path)
				// Where narrow refcounts overflow, QEMU leaves a corrupt image.
				if !s.dataFile && s.refcount > 4 && r.IntN(2) == 0 {
					name := fmt.Sprint("snapshot ", round)
					testkit.Run(t, "qemu-img", "snapshot", "-c", name, path)
					snapshots[name] = readByOriginal(t, path)
				}
				if s.compat != "0.10" && r.IntN(3) == 0 {
					addBitmap(t, r, s, path, "bitmap")
					describeSame(t, r, path)
					// What becomes of bitmaps has a test of its own.
					testkit.Run(t, "qemu-img", "bitmap", "--remove", path, "bitmap")
				}
				describeSame(t, r, path)
				content := readByOriginal(t, path)
				m := testkit.NewModel(int64(len(content)))
				m.Write(content, 0)
				img := library(t, path, false)
				if d := m.Diff(readLibrary(t, img), 0); d != "" {
					t.Fatal("we read: ", d)
				}
				closeLibrary(t, img)
				changeByUs(t, r, path, m)
				describeSame(t, r, path)
				if d := m.Diff(readByOriginal(t, path), 0); d != "" {
					t.Fatal("QEMU reads: ", d)
				}
				sameSnapshots(t, path, snapshots)
			}
		})
	}
}

// makeByOriginal creates an image empty, or full of compressed clusters.
func makeByOriginal(t *testing.T, r *rand.Rand, s spec, dir, path string) {
	t.Helper()
	if s.dataFile || s.prealloc != "off" || r.IntN(2) == 0 {
		args := append([]string{"create", "-q", "-f", "qcow2"}, s.args(dir)...)
		testkit.Run(t, "qemu-img", append(args, path, fmt.Sprint(s.size))...)
		return
	}
	raw := filepath.Join(dir, "source")
	content := make([]byte, s.size)
	testkit.FillDisk(r, content)
	writeFile(t, raw, content)
	args := append([]string{"convert", "-c", "-f", "raw", "-O", "qcow2"}, s.args(dir)...)
	for i, a := range args {
		if a == "-b" {
			args[i] = "-B"
		}
	}
	testkit.Run(t, "qemu-img", append(args, raw, path)...)
}

// changeByOriginal runs random commands of qemu-io. Some fail, as compressed
// writes do where a cluster is allocated; that is no matter.
func changeByOriginal(t *testing.T, r *rand.Rand, path string) {
	t.Helper()
	img := library(t, path, false)
	size, cs := img.Size(), img.Limits().ClusterSize
	closeLibrary(t, img)
	args := []string{"-f", "qcow2", "-d", "unmap"}
	for range 20 {
		off := r.Int64N(size) &^ 511
		n := min((1+r.Int64N(pick(r, 512, cs, 4*cs, 128<<10))+511)&^511, size-off)
		cmd := ""
		switch r.IntN(12) {
		case 0, 1, 2, 3:
			cmd = fmt.Sprintf("write -P %d %d %d", 1+r.IntN(255), off, n)
		case 4:
			cmd = fmt.Sprintf("write -P %d %d %d", 1+r.IntN(255), off+100, max(1, n-300))
		case 5:
			cmd = fmt.Sprintf("write -z %d %d", off, n)
		case 6:
			cmd = fmt.Sprintf("write -zu %d %d", off, n)
		case 7, 8:
			cmd = fmt.Sprintf("discard %d %d", off, n)
		case 9, 10:
			cmd = fmt.Sprintf("write -c -P %d %d %d", 1+r.IntN(255), off/cs*cs, min(cs, size-off/cs*cs))
		default:
			// QEMU may not shrink below what a snapshot holds.
			size = min((size*3/4+r.Int64N(size)+511)&^511, 24<<20)
			cmd = fmt.Sprintf("truncate %d", size)
		}
		args = append(args, "-c", cmd)
	}
	if out, stderr, _ := testkit.Try(t, "qemu-io", append(args, path)...); !strings.Contains(out, "wrote") {
		t.Fatalf("qemu-io wrote nothing: %s%s", out, stderr)
	}
}

// addBitmap adds a persistent bitmap to an image. A small one would not fit the
// limits of small clusters.
func addBitmap(t *testing.T, r *rand.Rand, s spec, path, name string) {
	t.Helper()
	args := []string{"bitmap", "--add", "-g", fmt.Sprint(max(4096, s.cluster))}
	if r.IntN(2) == 0 {
		args = append(args, "--disable")
	}
	testkit.Run(t, "qemu-img", append(args, path, name)...)
}

// describeSame compares everything that the programs say about an image.
func describeSame(t *testing.T, r *rand.Rand, path string) {
	t.Helper()
	checkBoth(t, path)
	for _, args := range [][]string{
		{"info"},
		{"info", "--output=json", "--backing-chain"},
		{"map", "--output=json"},
		{"map"},
		{"measure", "-O", "raw", "--output=json"},
		{"measure", "-O", "qcow2"},
		{"measure", "-O", "qcow2", "--output=json", "-o", "cluster_size=" + pick(r, "512", "4k", "2M"), "-o", "preallocation=" + pick(r, "off", "metadata", "full")},
	} {
		sameCommand(t, append(args, "-f", "qcow2", path)...)
	}
}

// sameSnapshots reads the internal snapshots with both programs. QEMU
// gives them the size that the disk has now, and cuts them off if that is less;
// we give them the size that the disk had then.
func sameSnapshots(t *testing.T, path string, want map[string][]byte) {
	t.Helper()
	for name, content := range want {
		theirs := readByOriginal(t, path, "-l", "snapshot.name="+name)
		if n := min(len(theirs), len(content)); !bytes.Equal(theirs[:n], content[:n]) {
			t.Fatalf("snapshot %q has changed", name)
		}
		raw := filepath.Join(t.TempDir(), "ours.raw")
		ours(t, "convert", "-l", "snapshot.name="+name, "-f", "qcow2", "-O", "raw", path, raw)
		if got, err := os.ReadFile(raw); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("snapshot %q: we read %d bytes of %d, or others (%v)", name, len(got), len(content), err)
		}
	}
}
