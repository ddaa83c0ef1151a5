package drivertest

import (
	"context"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// Benchmark measures a driver. The numbers are of the driver and the block layer;
// formats lie on disks in memory.
func Benchmark(b *testing.B, h Harness) {
	if h.Size == 0 {
		h.Size = 64 << 20
	}
	ctx := context.Background()
	transfer := func(b *testing.B, write, filled bool, size int64, sequential bool) {
		s := newSuite(h)
		name := s.create(b, nil)
		img := s.open(b, name, true)
		defer func() { closeImage(b, img) }()
		p := make([]byte, size)
		r := testkit.Rand(1)
		testkit.Fill(r, p)
		slots := s.size / size
		if filled {
			for i := range slots {
				if _, err := img.WriteAt(ctx, p, i*size); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.SetBytes(size)
		b.ReportAllocs()
		i := int64(0)
		for b.Loop() {
			if !sequential {
				i = r.Int64N(slots)
			}
			var err error
			if write {
				_, err = img.WriteAt(ctx, p, i*size)
			} else {
				_, err = img.ReadAt(ctx, p, i*size)
			}
			if err != nil {
				b.Fatal(err)
			}
			if i++; i == slots {
				i = 0
			}
		}
	}
	b.Run("WriteNew1M", func(b *testing.B) { transfer(b, true, false, 1<<20, true) })
	b.Run("Write1M", func(b *testing.B) { transfer(b, true, true, 1<<20, true) })
	b.Run("Read1M", func(b *testing.B) { transfer(b, false, true, 1<<20, true) })
	b.Run("RandomWrite4K", func(b *testing.B) { transfer(b, true, true, 4096, false) })
	b.Run("RandomRead4K", func(b *testing.B) { transfer(b, false, true, 4096, false) })
	b.Run("ReadEmpty1M", func(b *testing.B) { transfer(b, false, false, 1<<20, true) })
}
