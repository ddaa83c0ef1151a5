package copyonread_test

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/copyonread"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const (
	cluster = 64 << 10
	size    = 40 * cluster
)

// chain makes a base of the byte 'b' and an empty overlay on it.
func chain(t *testing.T) (*block.Registry, opts.Dict) {
	m := mem.New().(*mem.Driver)
	reg := block.NewRegistry(copyonread.New(), qcow2.New(), raw.New(), m)
	base := mem.NewDisk(size)
	if _, err := base.WriteAt(t.Context(), bytes.Repeat([]byte{'b'}, size), 0); err != nil {
		t.Fatal(err)
	}
	m.Add("base", base)
	if err := block.Create(t.Context(), reg, block.CreateRequest{Filename: "mem:top", Format: "qcow2", Size: size,
		Options: opts.Dict{"backing_file": "mem:base", "backing_fmt": "raw"}}); err != nil {
		t.Fatal(err)
	}
	return reg, opts.Dict{"driver": "copy-on-read", "file.driver": "qcow2", "file.file.driver": "mem", "file.file.filename": "top"}
}

// TestCopies: what was read lies in the overlay afterwards, and nothing else does.
func TestCopies(t *testing.T) {
	reg, o := chain(t)
	if _, err := block.Open(t.Context(), reg, block.Source{Options: o}, block.OpenOptions{Gate: driver.AllowAll}); !errors.Is(err, driver.ErrReadOnly) {
		t.Errorf("read-only: %v", err)
	}
	img, err := block.Open(t.Context(), reg, block.Source{Options: o}, block.OpenOptions{Write: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	if _, err := img.ReadAt(t.Context(), p, 3*cluster-50); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{'b'}, 100)) {
		t.Errorf("%q, %v", p, err)
	}
	for c := range int64(size / cluster) {
		there, _, err := img.AllocatedLayer(t.Context(), c*cluster, cluster)
		if want := c == 2 || c == 3; err != nil || there != want {
			t.Errorf("cluster %d is in the overlay: %v, %v", c, there, err)
		}
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestReadersAndWriters: a copy never brings back what a writer has replaced.
func TestReadersAndWriters(t *testing.T) {
	reg, o := chain(t)
	img, err := block.Open(t.Context(), reg, block.Source{Options: o}, block.OpenOptions{Write: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for c := range int64(size / cluster) {
		for part := range int64(4) {
			wg.Go(func() {
				if _, err := img.WriteAt(t.Context(), bytes.Repeat([]byte{'w'}, 512), c*cluster+part*4096); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := img.ReadAt(t.Context(), make([]byte, 1000), c*cluster+part*9000); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	want := bytes.Repeat([]byte{'b'}, size)
	for c := range size / cluster {
		for part := range 4 {
			copy(want[c*cluster+part*4096:], bytes.Repeat([]byte{'w'}, 512))
		}
	}
	got := make([]byte, size)
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil && err != io.EOF || !bytes.Equal(got, want) {
		t.Errorf("a write was lost, or %v", err)
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestSubclusters: an image that can hold parts of a cluster gets no more than the part.
func TestSubclusters(t *testing.T) {
	reg, source := chain(t)
	if err := block.Create(t.Context(), reg, block.CreateRequest{Filename: "mem:top", Format: "qcow2", Size: size,
		Options: opts.Dict{"backing_file": "mem:base", "backing_fmt": "raw", "extended_l2": "on", "cluster_size": "256k"}}); err != nil {
		t.Fatal(err)
	}
	img, err := block.Open(t.Context(), reg, block.Source{Options: source}, block.OpenOptions{Write: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	p := make([]byte, 4096)
	if _, err := img.ReadAt(t.Context(), p, 20<<10); err != nil || p[0] != 'b' {
		t.Fatal(p[0], err)
	}
	for _, c := range []struct {
		off  int64
		want bool
	}{{0, false}, {16 << 10, true}, {24 << 10, false}} {
		there, n, err := img.AllocatedLayer(t.Context(), c.off, 8<<10)
		if err != nil || there != c.want || n != 8<<10 {
			t.Errorf("at %d: %v for %d bytes, %v; want %v", c.off, there, n, err, c.want)
		}
	}
}
