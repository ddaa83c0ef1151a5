package qcow2_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/opts"
)

// bitmapSeed is a small image with bitmaps, and where their directory and the first
// table are.
func bitmapSeed(tb testing.TB, options opts.Dict) (b []byte, dir, table int64) {
	tb.Helper()
	ctx := context.Background()
	img, disk := openBytes(tb, seedImage(tb, options), &driver.Budget{})
	for i, name := range []string{"one", "two"} {
		if err := img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: name, Granularity: 512, Disabled: i == 1}); err != nil {
			tb.Fatal(err)
		}
	}
	_, err := img.WriteAt(ctx, make([]byte, 700), 900)
	if err == nil {
		err = img.Close(ctx)
	}
	if err != nil {
		tb.Fatal(err)
	}
	b = diskBytes(tb, disk)
	h, _ := ondisk.DecodeHeader(b)
	exts, _ := ondisk.DecodeExtensions(b[h.HeaderLength:h.ClusterSize()])
	for _, e := range exts {
		if e.Type == ondisk.ExtBitmaps {
			x, _ := ondisk.DecodeBitmapsExtension(e.Data)
			dir = int64(x.DirectoryOffset)
		}
	}
	return b, dir, int64(binary.BigEndian.Uint64(b[dir:]))
}

// FuzzBitmaps puts any bytes in place of the bitmap directory and of a bitmap table,
// and uses what there is then. Nothing may panic, hang or take memory without bound.
func FuzzBitmaps(f *testing.F) {
	type seed struct {
		b          []byte
		dir, table int64
	}
	var seeds []seed
	for i, o := range []opts.Dict{{"cluster_size": "512"}, {"cluster_size": "4k", "refcount_bits": "1"}} {
		b, dir, table := bitmapSeed(f, o)
		seeds = append(seeds, seed{b, dir, table})
		f.Add(uint8(i), b[dir:dir+64], b[table:table+8], uint8(255))
		f.Add(uint8(i), b[dir:dir+64], []byte{0, 0, 0, 0, 0, 0, 0, 1}, uint8(3))
	}
	f.Fuzz(func(t *testing.T, which uint8, dir, table []byte, what uint8) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		s := seeds[int(which)%len(seeds)]
		b := append([]byte(nil), s.b...)
		copy(b[s.dir:], dir)
		copy(b[s.table:], table)
		img, _ := openBytes(t, b, &driver.Budget{MaxMemory: 16 << 20})
		if img == nil {
			return
		}
		list, _, err := img.Bitmaps().List(ctx)
		if err != nil {
			list = nil
		}
		if what&1 != 0 {
			_, _ = img.WriteAt(ctx, []byte("written"), 100)
		}
		if what&2 != 0 {
			_ = img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: "new"})
		}
		if what&4 != 0 {
			_ = img.Resize(ctx, img.Size()*2, driver.ResizeOptions{})
		}
		for _, i := range list {
			_, _, _ = img.Bitmaps().Extent(ctx, i.Name, 0, img.Size())
			if what&8 != 0 {
				_ = img.Bitmaps().Clear(ctx, i.Name)
			}
			if what&16 != 0 {
				_ = img.Bitmaps().Enable(ctx, i.Name, !i.Enabled)
			}
			if what&32 != 0 {
				_ = img.Bitmaps().Set(ctx, i.Name, 1000, 5000)
			}
			if what&64 != 0 {
				_ = img.Bitmaps().Remove(ctx, i.Name)
			}
		}
		_ = img.Tree().Node().(driver.Checker)
		_, _ = img.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, nil, nil)
		_ = img.Close(ctx)
		if ctx.Err() != nil {
			t.Fatal("took too long")
		}
	})
}
