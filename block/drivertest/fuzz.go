package drivertest

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// fuzzTime is far more than an image of a few hundred KiB may take.
const fuzzTime = 20 * time.Second

// Fuzz opens, maps, reads, checks, repairs and writes images of any content, under a
// budget. They may fail in any way but these: a panic, an endless loop, memory without
// bound. The seed is an image of the harness with a bit of everything.
func Fuzz(f *testing.F, h Harness) {
	f.Helper()
	if h.Size == 0 {
		h.Size = 300 << 10
	}
	s := newSuite(h)
	name := s.create(f, nil)
	img := s.open(f, name, true)
	m := testkit.NewModel(img.Size())
	r := testkit.Rand(1)
	for i := range 12 {
		s.randomStep(f, img, m, r, i)
	}
	closeImage(f, img)
	seed := make([]byte, s.disk(name).Size())
	if _, err := s.disk(name).ReadAt(context.Background(), seed, 0); err != nil && err != io.EOF {
		f.Fatal(err)
	}
	f.Add(seed[:min(len(seed), 1<<20)], uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, choice uint64) {
		s := newSuite(h)
		disk := mem.NewDisk(0)
		ctx, cancel := context.WithTimeout(context.Background(), fuzzTime)
		defer cancel()
		if _, err := disk.WriteAt(ctx, b, 0); err != nil {
			t.Fatal(err)
		}
		s.mem.Add("damaged", disk)
		s.useDamaged(ctx, t, testkit.Rand(choice))
		if ctx.Err() != nil {
			t.Fatalf("took longer than %v", fuzzTime)
		}
	})
}
