package qcow2_test

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

func benchImage(b *testing.B, size int64, options ...string) *block.Image {
	b.Helper()
	path := filepath.Join(b.TempDir(), "a.qcow2")
	create(b, path, size, options...)
	o := openOpts(true)
	o.Cache.NoFlush = true
	img, err := block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, o)
	if err != nil {
		b.Fatal(err)
	}
	return img
}

// BenchmarkAllocate links 60,000 clusters of 4 KiB at random places, 32 at a
// time, without the writing of data.
func BenchmarkAllocate(b *testing.B) {
	const writes, depth = 60000, 32
	for b.Loop() {
		img := benchImage(b, 4<<30, "cluster_size=64k")
		f := img.Tree().Node().(driver.Allocator)
		var next atomic.Int64
		var wg sync.WaitGroup
		for range depth {
			wg.Go(func() {
				ctx := context.Background()
				for i := next.Add(1); i <= writes; i = next.Add(1) {
					t, err := f.Allocate(ctx, i*7919%(1<<20)<<12, 4096)
					if err != nil {
						b.Error(err)
						return
					}
					if t.Pending != nil {
						if err := t.Pending.Commit(ctx); err != nil {
							b.Error(err)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		closeBench(b, img)
	}
}

func closeBench(b *testing.B, img *block.Image) {
	b.Helper()
	if err := img.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkMap walks the mapping of a large preallocated disk.
func BenchmarkMap(b *testing.B) {
	img := benchImage(b, 64<<30, "preallocation=metadata")
	defer closeBench(b, img)
	f := img.Tree().Node().(driver.Format)
	b.ReportAllocs()
	for b.Loop() {
		for off := int64(0); off < f.Size(); {
			x, err := f.Map(context.Background(), off, f.Size()-off)
			if err != nil {
				b.Fatal(err)
			}
			off += x.Length
		}
	}
}

func BenchmarkWrite4K(b *testing.B) {
	img := benchImage(b, 1<<30)
	defer closeBench(b, img)
	p := make([]byte, 4096)
	testkit.Fill(testkit.Rand(1), p)
	b.SetBytes(4096)
	i := int64(0)
	for b.Loop() {
		if _, err := img.WriteAt(context.Background(), p, i%(1<<18)<<12); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkCodec compresses and decompresses clusters.
func BenchmarkCodec(b *testing.B) {
	for _, typ := range []string{"zlib", "zstd"} {
		b.Run(typ, func(b *testing.B) {
			img := benchImage(b, 1<<30, "compression_type="+typ)
			defer closeBench(b, img)
			p := make([]byte, 64<<10)
			r := testkit.Rand(1)
			for i := range p { // text-like: compresses about two to one
				p[i] = "etaoin shrdlu cmfwyp"[r.IntN(1+r.IntN(20))]
			}
			enc, ok, err := img.Encode(nil, p)
			if err != nil || !ok {
				b.Fatal(ok, err)
			}
			if err := img.WriteEncoded(context.Background(), 0, enc); err != nil {
				b.Fatal(err)
			}
			b.Run("encode", func(b *testing.B) {
				b.SetBytes(int64(len(p)))
				b.ReportAllocs()
				for b.Loop() {
					enc, _, _ = img.Encode(enc[:0], p)
				}
			})
			b.Run("decode", func(b *testing.B) {
				b.SetBytes(int64(len(p)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := img.ReadAt(context.Background(), p, 0); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
