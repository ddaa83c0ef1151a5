package qemuimg

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestGzip: what is written is one member that others read, the same bytes whatever the pieces are.
func TestGzip(t *testing.T) {
	for _, n := range []int{0, 1, gzipBlock - 1, gzipBlock, 3*gzipBlock + 5} {
		want := make([]byte, n)
		testkit.FillDisk(testkit.Rand(uint64(n)), want)
		var out [2]bytes.Buffer
		for i, piece := range []int{7919, 1 << 22} {
			z := newGzipWriter(&out[i])
			for p := want; len(p) > 0; {
				k := min(piece, len(p))
				if _, err := z.Write(p[:k]); err != nil {
					t.Fatal(err)
				}
				p = p[k:]
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(out[0].Bytes(), out[1].Bytes()) {
			t.Errorf("%d bytes: two outputs", n)
		}
		r, err := gzip.NewReader(&out[0])
		if err != nil {
			t.Fatal(err)
		}
		r.Multistream(false)
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) || out[0].Len() > 0 {
			t.Errorf("%d bytes: %d read, %v, %d are left", n, len(got), err, out[0].Len())
		}
	}
}

type fullFile struct{ left int }

var errFull = errors.New("full")

func (f *fullFile) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// TestGzipFull: an error of the file is told, wherever it comes.
func TestGzipFull(t *testing.T) {
	p := make([]byte, 5*gzipBlock)
	testkit.Fill(testkit.Rand(1), p)
	var whole bytes.Buffer
	z := newGzipWriter(&whole)
	if _, err := z.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, room := range []int{0, 11, whole.Len() / 2, whole.Len() - 1} {
		z := newGzipWriter(&fullFile{room})
		_, err := z.Write(p)
		if cerr := z.Close(); !errors.Is(cerr, errFull) || err != nil && !errors.Is(err, errFull) {
			t.Errorf("room for %d bytes: %v, %v", room, err, cerr)
		}
	}
}
