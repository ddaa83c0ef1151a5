package ops_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
)

// inFile makes an image in a file, with content, and opens it for writing.
func (w *world) inFile(name, format string, content []byte) *block.Image {
	w.t.Helper()
	if err := block.Create(w.t.Context(), w.reg, block.CreateRequest{Filename: name, Format: format, Size: int64(len(content)), Gate: driver.AllowAll}); err != nil {
		w.t.Fatal(err)
	}
	img, err := block.Open(w.t.Context(), w.reg, block.Source{Filename: name, Format: format}, block.OpenOptions{Write: true, Gate: driver.AllowAll})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { img.Close(context.Background()) })
	if _, err := img.WriteAt(w.t.Context(), content, 0); err != nil {
		w.t.Fatal(err)
	}
	return img
}

// TestCompareFiles compares disks whose bytes can be looked at without reading them, and
// the same bytes in memory, which must be read.
func TestCompareFiles(t *testing.T) {
	const size = 3<<20 + 70_000 - 70_000%512
	content := make([]byte, size)
	testkit.Fill(testkit.Rand(13), content)
	clear(content[2<<20 : 2<<20+300<<10])
	w := newWorld(t)
	raw, qcow2 := w.inFile(filepath.Join(t.TempDir(), "a"), "raw", content), w.inFile(filepath.Join(t.TempDir(), "b"), "qcow2", content)
	other := w.create("c", "qcow2", size, nil)
	if _, err := other.WriteAt(t.Context(), content, 0); err != nil {
		t.Fatal(err)
	}
	expect := func(a, b *block.Image, want ops.CompareResult) {
		t.Helper()
		for _, pair := range [][2]*block.Image{{a, b}, {b, a}} {
			if got, err := ops.Compare(t.Context(), pair[0], pair[1], ops.CompareOptions{}); err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		}
	}
	for _, off := range []int64{0, 511, 255 << 10, 256 << 10, 1<<20 - 1, 1 << 20, 2<<20 + 5, size - 1} {
		var was [1]byte
		if _, err := qcow2.ReadAt(t.Context(), was[:], off); err != nil {
			t.Fatal(err)
		}
		w.write(qcow2, off, string([]byte{was[0] + 1}))
		for _, img := range []*block.Image{raw, other} {
			expect(img, qcow2, ops.CompareResult{Difference: ops.DiffContent, Offset: off &^ 511})
		}
		w.write(qcow2, off, string(was[:]))
	}
	expect(raw, qcow2, ops.CompareResult{})
	expect(other, raw, ops.CompareResult{})
}

// TestCompareZeroes: what is zero in one disk by its tables is looked for in the other.
func TestCompareZeroes(t *testing.T) {
	content := make([]byte, 2<<20)
	w := newWorld(t)
	data, empty := w.inFile(filepath.Join(t.TempDir(), "a"), "qcow2", content), w.create("b", "qcow2", 2<<20, nil)
	if r, err := ops.Compare(t.Context(), data, empty, ops.CompareOptions{}); err != nil || r != (ops.CompareResult{}) {
		t.Errorf("%+v, %v", r, err)
	}
	w.write(data, 1<<20+300_000, "x")
	want := ops.CompareResult{Difference: ops.DiffContent, Offset: (1<<20 + 300_000) &^ 511}
	if r, err := ops.Compare(t.Context(), empty, data, ops.CompareOptions{}); err != nil || r != want {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestCompareCutOff: a file that lost its end gives the error that reading it gives.
func TestCompareCutOff(t *testing.T) {
	content := make([]byte, 3<<20)
	testkit.Fill(testkit.Rand(2), content)
	w := newWorld(t)
	name := filepath.Join(t.TempDir(), "a")
	a, b := w.inFile(name, "qcow2", content), w.inFile(filepath.Join(t.TempDir(), "b"), "raw", content)
	if err := os.Truncate(name, 1<<20); err != nil {
		t.Fatal(err)
	}
	_, err := ops.Compare(t.Context(), a, b, ops.CompareOptions{})
	var failed *ops.CompareError
	if !errors.As(err, &failed) || failed.Image != a {
		t.Errorf("%v", err)
	}
}
