package compress_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/compress"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// TestCompresses: whole clusters are stored compressed, parts and rewrites are not, and
// all of it reads as it was written.
func TestCompresses(t *testing.T) {
	m := mem.New().(*mem.Driver)
	reg := block.NewRegistry(compress.New(), qcow2.New(), raw.New(), m)
	const cluster = 64 << 10
	if err := block.Create(t.Context(), reg, block.CreateRequest{Filename: "mem:d", Format: "qcow2", Size: 10 * cluster, Options: opts.Dict{}}); err != nil {
		t.Fatal(err)
	}
	img, err := block.Open(t.Context(), reg, block.Source{Options: opts.Dict{"driver": "compress", "file.driver": "qcow2", "file.file.driver": "mem", "file.file.filename": "d"}},
		block.OpenOptions{Write: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 10*cluster)
	write := func(off, n int, b byte) {
		copy(want[off:], bytes.Repeat([]byte{b}, n))
		if _, err := img.WriteAt(t.Context(), want[off:off+n], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 2*cluster, 'a')
	write(4*cluster+100, cluster, 'b')
	write(cluster, 512, 'c')
	got := make([]byte, len(want))
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil && err != io.EOF || !bytes.Equal(got, want) {
		t.Errorf("read otherwise than written, or %v", err)
	}
	for at, compressed := range map[int64]bool{0: true, 1: false, 4: false, 5: false} {
		st, err := img.Status(t.Context(), at*cluster, 1, nil)
		if err != nil || !st.Data || st.Compressed != compressed {
			t.Errorf("cluster %d: %+v, %v", at, st, err)
		}
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = block.Open(t.Context(), reg, block.Source{Options: opts.Dict{"driver": "compress", "file.driver": "raw", "file.file.driver": "mem", "file.file.filename": "d"}},
		block.OpenOptions{Gate: driver.DenyAll})
	if !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("over raw: %v", err)
	}
}
