package qcow2_test

import (
	"context"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// seedImage makes a small image that has a bit of everything.
func seedImage(tb testing.TB, options opts.Dict) []byte {
	tb.Helper()
	ctx := context.Background()
	memory := mem.New().(*mem.Driver)
	reg := block.NewRegistry(qcow2.New(), memory)
	if err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:a", Format: "qcow2", Size: 256 << 10, Options: options, Gate: driver.AllowAll}); err != nil {
		tb.Fatal(err)
	}
	img, err := block.Open(ctx, reg, block.Source{Filename: "mem:a", Format: "qcow2"}, openOpts(true))
	if err != nil {
		tb.Fatal(err)
	}
	p := make([]byte, 3000)
	testkit.Fill(testkit.Rand(1), p)
	cs := img.Limits().ClusterSize
	enc, _, err := img.Encode(nil, make([]byte, cs))
	if err == nil {
		err = img.WriteEncoded(ctx, 64<<10, enc)
	}
	if err == nil {
		_, err = img.WriteAt(ctx, p, 1000)
	}
	if err == nil && options["compat"] != "0.10" {
		err = img.WriteZeroes(ctx, 128<<10, 32<<10, 0)
	}
	if err == nil {
		err = img.Close(ctx)
	}
	if err != nil {
		tb.Fatal(err)
	}
	disk := memory.Disk("a")
	out := make([]byte, disk.Size())
	if _, err := disk.ReadAt(ctx, out, 0); err != nil {
		tb.Fatal(err)
	}
	return out
}

// FuzzImage opens, maps, reads and writes images of any content. Nothing may
// panic, hang or take memory without bound.
func FuzzImage(f *testing.F) {
	for _, o := range []opts.Dict{{"cluster_size": "512"}, {"cluster_size": "4k", "compat": "0.10"}, {"cluster_size": "16k", "extended_l2": "on"},
		{"cluster_size": "1k", "compression_type": "zstd", "refcount_bits": "1"}} {
		f.Add(seedImage(f, o))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for _, write := range []bool{false, true} {
			memory := mem.New().(*mem.Driver)
			disk := mem.NewDisk(0)
			if _, err := disk.WriteAt(ctx, b, 0); err != nil {
				t.Fatal(err)
			}
			memory.Add("a", disk)
			o := openOpts(write)
			o.Gate = driver.DenyAll
			o.Budget = &driver.Budget{MaxMemory: 64 << 20}
			img, err := block.Open(ctx, block.NewRegistry(qcow2.New(), memory), block.Source{Filename: "mem:a", Format: "qcow2"}, o)
			if err != nil {
				continue
			}
			exercise(ctx, t, img, write)
			_ = img.Close(ctx)
		}
		if ctx.Err() != nil {
			t.Fatal("took too long")
		}
	})
}

func exercise(ctx context.Context, t *testing.T, img *block.Image, write bool) {
	format := img.Tree().Node().(driver.Format)
	p := make([]byte, 64<<10)
	for off, i := int64(0), 0; off < img.Size() && i < 200; i++ {
		x, err := format.Map(ctx, off, img.Size()-off)
		if err != nil {
			off += img.Limits().ClusterSize
			continue
		}
		if x.Length <= 0 || x.Length > img.Size()-off {
			t.Fatalf("extent %+v at %d of %d", x, off, img.Size())
		}
		n := min(x.Length, int64(len(p)))
		_, _ = img.ReadAt(ctx, p[:n], off)
		off += x.Length
	}
	if !write {
		return
	}
	for _, off := range []int64{0, 1000, 65536, img.Size() / 2, img.Size() - 100} {
		if off >= 0 && off+100 <= img.Size() {
			_, _ = img.WriteAt(ctx, p[:100], off)
			_ = img.Discard(ctx, off, min(img.Size()-off, 1<<20))
			_ = img.WriteZeroes(ctx, off, min(img.Size()-off, 1<<20), driver.ZeroMayUnmap)
		}
	}
	_ = img.Flush(ctx)
	if size := img.Size(); size < 1<<30 {
		_ = img.Resize(ctx, size+1<<20, driver.ResizeOptions{})
		_ = img.Resize(ctx, size/2&^511, driver.ResizeOptions{})
	}
}
