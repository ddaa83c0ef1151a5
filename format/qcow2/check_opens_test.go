package qcow2_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// TestCleanOpens damages every byte of the header, its extensions, the snapshot table
// and the bitmap directory. What check finds nothing in opens for writing, with
// us and with QEMU, and so does what a repair calls clean.
func TestCleanOpens(t *testing.T) {
	t.Parallel()
	testkit.NoRace(t, "one caller")
	dir := t.TempDir()
	path := filepath.Join(dir, "a.qcow2")
	create(t, path, 1<<20, "cluster_size=4096")
	qemuIO(t, path, "write -P 1 0 64k")
	for _, args := range [][]string{{"snapshot", "-c", "one", path}, {"snapshot", "-c", "two", path}, {"bitmap", "--add", path, "b0"},
		{"bitmap", "--add", path, "b1"}, {"bitmap", "--disable", path, "b1"}} {
		testkit.Run(t, "qemu-img", args...)
	}
	clean, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	answers := answersOfOriginal{}
	for _, p := range headerPlaces(clean) {
		for off := p.off; off < p.off+p.n; off++ {
			if !testkit.Sample(off, 11) {
				continue
			}
			for v := range map[byte]bool{clean[off] ^ 1: true, clean[off] ^ 0x80: true, ^clean[off]: true, 0: true, clean[off] + 1: true} {
				if v == clean[off] {
					continue
				}
				b := bytes.Clone(clean)
				b[off] = v
				cleanOpens(t, answers, filepath.Join(dir, "m.qcow2"), b, fmt.Sprintf("%s, byte %d: %#x for %#x", p.name, off-p.off, v, clean[off]))
			}
		}
	}
}

type place struct {
	name   string
	off, n int
}

// headerPlaces lists what of an image describes snapshots, bitmaps and itself.
func headerPlaces(b []byte) []place {
	be := binary.BigEndian
	length := int(be.Uint32(b[100:]))
	places := []place{{"header", 0, length}}
	for off := length; ; {
		typ, n := be.Uint32(b[off:]), int(be.Uint32(b[off+4:]))
		places = append(places, place{fmt.Sprintf("extension %#x", typ), off, 8 + min(n, 24)})
		if typ == 0x23852875 {
			places = append(places, place{"bitmap directory", int(be.Uint64(b[off+24:])), int(be.Uint64(b[off+16:]))})
		}
		if typ == 0 {
			break
		}
		off += 8 + (n+7)&^7
	}
	table := int(be.Uint64(b[64:]))
	return append(places, place{"snapshot table", table, 2 * (40 + 24 + 8)})
}

// answersOfOriginal is what QEMU says when it opens images, by the digests of their contents.
// The answer is empty if it opens them.
type answersOfOriginal map[[sha256.Size]byte]string

// ask lets QEMU open the image for writing, unless it has seen the same bytes.
func (a answersOfOriginal) ask(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(content)
	answer, ok := a[digest]
	if !ok {
		if out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", "read 0 512", path).CombinedOutput(); err != nil {
			answer = fmt.Sprintf("%v: %s", err, out)
		}
		a[digest] = answer
	}
	return answer
}

// cleanOpens fails the test if check is content with what nobody can open.
func cleanOpens(t *testing.T, answers answersOfOriginal, path string, b []byte, what string) {
	t.Helper()
	for _, fix := range []driver.CheckFix{{}, {Leaks: true, Errors: true}} {
		// An open for writing may have changed it.
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if !checks(t, path, fix) {
			continue
		}
		when := what + ", check is content"
		if fix.Errors {
			when = what + ", repaired"
		}
		err := opensForWriting(path)
		if err != nil && !fix.Errors && b[79]&2 != 0 {
			continue // the corrupt bit asks for a repair
		}
		if err != nil {
			t.Errorf("%s: %v", when, err)
			continue
		}
		if answer := answers.ask(t, path); answer != "" {
			t.Errorf("%s: QEMU says %s", when, answer)
		}
	}
}

// checks says whether check finds nothing, or what it finds can be repaired.
func checks(t *testing.T, path string, fix driver.CheckFix) bool {
	t.Helper()
	ctx := context.Background()
	img, err := block.Open(ctx, registry(), block.Source{Filename: path, Format: "qcow2"},
		block.OpenOptions{Write: fix.Leaks, Sharing: block.Sharing{Resize: fix.Leaks}, Use: block.Use{Check: true}, Gate: driver.AllowAll})
	if err != nil {
		return false
	}
	defer img.Close(ctx)
	res, err := img.Tree().Node().(driver.Checker).Check(ctx, fix, nil, nil)
	return err == nil && res.CheckErrors == 0 && res.Corruptions == 0
}

func opensForWriting(path string) error {
	ctx := context.Background()
	img, err := block.Open(ctx, registry(), block.Source{Filename: path, Format: "qcow2", Options: opts.Dict{}}, openOpts(true))
	if err != nil {
		return err
	}
	return img.Close(ctx)
}
