package ops_test

import (
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestView: a view shows the bytes of the disk, and only those that are in one piece.
func TestView(t *testing.T) {
	content := make([]byte, 1<<20)
	testkit.Fill(testkit.Rand(3), content)
	w := newWorld(t)
	img := w.inFile(filepath.Join(t.TempDir(), "a"), "qcow2", content)
	if err := img.WriteZeroes(t.Context(), 512<<10, 64<<10, 0); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		off, length int64
		want        bool
	}{{0, 512 << 10, true}, {100, 1000, true}, {576 << 10, 448 << 10, true},
		{500 << 10, 64 << 10, false}, {512 << 10, 4096, false}, {0, 1<<20 + 1, false}, {-1, 10, false}} {
		got := img.View(t.Context(), r.off, r.length, func(p []byte) {
			if string(p) != string(content[r.off:r.off+r.length]) {
				t.Errorf("%d bytes at %d: other bytes", r.length, r.off)
			}
		})
		if got != r.want {
			t.Errorf("%d bytes at %d: %t", r.length, r.off, got)
		}
	}
}
