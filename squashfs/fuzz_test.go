package squashfs_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/fstree/treetest"
	"github.com/cowl-disk/cowl/squashfs"
)

// small is an image of everything, not compressed much, so that changes hit records.
func small(t testing.TB, seed uint64) []byte {
	shape := treetest.Any()
	shape.Entries, shape.MaxSize, shape.Hole = 20, 9000, 4096
	o := variant(seed)
	o.Pad = -1
	return write(t, treetest.Random(seed, shape), o)
}

// readAll opens an image and reads all of it, under limits.
func readAll(b []byte) error {
	i, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	tree, err := i.Tree(fstree.Options{Limits: fstree.Limits{Memory: 1 << 20, Bytes: 1 << 22, Depth: 64}})
	if err != nil {
		return err
	}
	for _, n := range tree.Root.Walk() {
		if n.Kind != fstree.File {
			continue
		}
		r, err := n.OpenContent()
		if err != nil {
			return err
		}
		for off := int64(0); off < n.Size; {
			start, end, err := r.NextData(off)
			if err != nil {
				return err
			}
			if start < off || end < start || end == off && off < n.Size {
				panic("no progress")
			}
			off = end
		}
		if _, err := io.Copy(io.Discard, io.NewSectionReader(r, 0, n.Size)); err != nil {
			return err
		}
	}
	return nil
}

func FuzzOpen(f *testing.F) {
	for seed := range uint64(5) {
		f.Add(small(f, seed))
	}
	f.Fuzz(func(_ *testing.T, b []byte) { readAll(b) })
}

// TestDamaged reads images with changed bytes and cut ones: an error, or what is there.
func TestDamaged(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for seed := range uint64(5) {
		whole := small(t, seed)
		for range 200 {
			b := bytes.Clone(whole)
			for range 1 + r.IntN(3) {
				b[r.IntN(len(b))] ^= byte(1 << r.IntN(8))
			}
			readAll(b)
		}
		for range 20 {
			if err := readAll(whole[:r.IntN(len(whole))]); err == nil {
				t.Error("an image that is cut off is read")
			}
		}
	}
}
