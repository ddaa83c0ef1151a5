package compress_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/compress"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// TestCompresses: clusters are stored compressed by the first write to them, whole or in
// part, those written again are not, and all of it reads as it was written.
func TestCompresses(t *testing.T) {
	m := mem.New().(*mem.Driver)
	reg := block.NewRegistry(compress.New(), qcow2.New(), raw.New(), m)
	const cluster = 64 << 10
	if err := block.Create(t.Context(), reg, block.CreateRequest{Filename: "mem:d", Format: "qcow2", Size: 10*cluster - 512, Options: opts.Dict{}}); err != nil {
		t.Fatal(err)
	}
	img, err := block.Open(t.Context(), reg, block.Source{Options: opts.Dict{"driver": "compress", "file.driver": "qcow2", "file.file.driver": "mem", "file.file.filename": "d"}},
		block.OpenOptions{Write: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 10*cluster-512)
	write := func(off, n int, b byte) {
		copy(want[off:], bytes.Repeat([]byte{b}, n))
		if _, err := img.WriteAt(t.Context(), want[off:off+n], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 2*cluster, 'a')
	write(4*cluster+100, cluster, 'b')
	write(cluster, 512, 'c')
	write(9*cluster+cluster/2, cluster/4, 'd') // the disk ends in this cluster
	got := make([]byte, len(want))
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil && err != io.EOF || !bytes.Equal(got, want) {
		t.Errorf("read otherwise than written, or %v", err)
	}
	for at, compressed := range map[int64]bool{0: true, 1: false, 4: true, 5: true, 9: true} {
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

// TestChangesOfOneCluster: while a part of a cluster is written, and the rest of it has
// been read to be compressed with it, that rest does not change.
func TestChangesOfOneCluster(t *testing.T) {
	const cluster = 64 << 10
	part := bytes.Repeat([]byte{2}, 4096)
	for name, change := range map[string]func(ctx context.Context, img *block.Image) error{
		"write":   func(ctx context.Context, img *block.Image) error { return second(img.WriteAt(ctx, part, 8192)) },
		"zeroes":  func(ctx context.Context, img *block.Image) error { return img.WriteZeroes(ctx, 0, cluster, 0) },
		"discard": func(ctx context.Context, img *block.Image) error { return img.Discard(ctx, 0, 2*cluster) },
	} {
		t.Run(name, func(t *testing.T) {
			m, base := mem.New().(*mem.Driver), mem.NewDisk(4*cluster)
			m.Add("base", base)
			reg := block.NewRegistry(compress.New(), qcow2.New(), raw.New(), m)
			if _, err := base.WriteAt(t.Context(), bytes.Repeat([]byte{1}, cluster), 0); err != nil {
				t.Fatal(err)
			}
			if err := block.Create(t.Context(), reg, block.CreateRequest{Filename: "mem:d", Format: "qcow2", Size: 4 * cluster, Options: opts.Dict{"backing_file": "mem:base", "backing_fmt": "raw"}}); err != nil {
				t.Fatal(err)
			}
			img, err := block.Open(t.Context(), reg, block.Source{Options: opts.Dict{"driver": "compress", "file.driver": "qcow2", "file.file.driver": "mem", "file.file.filename": "d"}},
				block.OpenOptions{Write: true, Unmap: true, Gate: driver.AllowAll})
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close(t.Context())
			var beside error
			once := sync.OnceFunc(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				beside = change(ctx, img)
			})
			base.SetHook(func(op mem.Op, _, _ int64) error {
				if op == mem.OpRead {
					base.SetHook(nil)
					once()
				}
				return nil
			})
			if _, err := img.WriteAt(t.Context(), part, 0); err != nil {
				t.Error(err)
			}
			if !errors.Is(beside, context.DeadlineExceeded) {
				t.Errorf("beside the write: %v", beside)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }
