package qcow2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cowl-disk/cowl/format/qcow2/internal/layout"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// countWriter fails on anything but sequential writing and counts.
type countWriter struct {
	f *os.File
	n int64
}

func (w *countWriter) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	w.n += int64(n)
	return n, err
}

func TestStreamBesideOriginal(t *testing.T) {
	t.Parallel()
	testkit.NoRace(t, "one goroutine works alone")
	needTool(t, "qemu-img")
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	for _, options := range []string{"", "cluster_size=512", "cluster_size=4k,refcount_bits=64", "cluster_size=2M", "compat=0.10",
		"extended_l2=on", "refcount_bits=1", "cluster_size=512,refcount_bits=1", "compression_type=zstd,lazy_refcounts=on"} {
		for _, size := range []int64{0, 512, 1 << 20, 20<<20 + 1536} {
			t.Run(fmt.Sprintf("%s %d", options, size), func(t *testing.T) {
				disk := make([]byte, size)
				var data []layout.Range
				for off := int64(0); off < size; {
					off += r.Int64N(1 << 20)
					n := min(r.Int64N(300<<10)+1, size-off)
					if n <= 0 {
						break
					}
					for j := off; j < off+n; j++ {
						disk[j] = byte(r.Uint32()) | 1
					}
					data = append(data, layout.Range{Off: off, Len: n})
					off += n
				}
				rawPath, path := filepath.Join(dir, "s.raw"), filepath.Join(dir, "s.qcow2")
				if err := os.WriteFile(rawPath, disk, 0o644); err != nil {
					t.Fatal(err)
				}
				f, err := os.Create(path)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				d := opts.Dict{}
				if err := d.ParseList(options, ""); err != nil {
					t.Fatal(err)
				}
				w := &countWriter{f: f}
				s, err := layout.NewStream(w, layout.StreamOptions{Size: size, Options: d, Data: slices.Values(data)})
				if err != nil {
					t.Fatal(err)
				}
				if len(data) > 0 && s.Close() == nil {
					t.Fatal("closing before the data was written is no error")
				}
				for run := range s.Runs() {
					b := make([]byte, run.Len)
					copy(b, disk[run.Off:])
					if _, err := s.Write(b); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if w.n != s.Total() {
					t.Fatalf("wrote %d bytes, announced %d", w.n, s.Total())
				}
				if _, err := s.Write([]byte{1}); err == nil {
					t.Fatal("more than everything was accepted")
				}
				if run := theirCheck(t, path); run.fail != "" || len(run.lines) > 0 {
					t.Fatalf("check: %s", run)
				}
				mustTool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, rawPath)
			})
		}
	}
}

func TestStreamRefusals(t *testing.T) {
	for _, c := range []struct {
		options string
		data    []layout.Range
	}{
		{"preallocation=metadata", nil}, {"data_file=x", nil}, {"nonsense=1", nil},
		{"", []layout.Range{{Off: 10, Len: 5}, {Off: 12, Len: 5}}}, {"", []layout.Range{{Off: 0, Len: 2 << 20}}}, {"", []layout.Range{{Off: -5, Len: 5}}}, {"", []layout.Range{{Off: 5, Len: -5}}},
	} {
		d := opts.Dict{}
		if err := d.ParseList(c.options, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := layout.NewStream(&bytes.Buffer{}, layout.StreamOptions{Size: 1 << 20, Options: d, Data: slices.Values(c.data)}); err == nil {
			t.Errorf("%q %v accepted", c.options, c.data)
		}
	}
}
