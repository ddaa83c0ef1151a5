package drivertest

import (
	"context"
	"errors"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

var errWrongContent = errors.New("wrong content")

// testBacking runs the random operations on images with a backing file that is
// shorter, as long and longer than the disk. The backing file must not change.
func testBacking(t *testing.T, s *suite) {
	if !s.desc().Backing {
		t.Skip("the format has no backing files")
	}
	ctx := context.Background()
	for _, c := range []struct {
		name string
		size int64
	}{{"shorter", s.size/2 + 512*5}, {"as long", s.size}, {"longer", s.size + 1<<20}} {
		t.Run(c.name, func(t *testing.T) {
			r := testkit.Rand(uint64(c.size))
			content := make([]byte, c.size/512*512)
			testkit.FillDisk(r, content)
			base := mem.NewDisk(0)
			if _, err := base.WriteAt(ctx, content, 0); err != nil {
				t.Fatal(err)
			}
			s.mem.Add("base", base)
			name := s.create(t, opts.Dict{"backing_file": "mem:base", "backing_fmt": "raw"})
			img := s.open(t, name, true)
			m := testkit.NewModel(img.Size())
			m.Write(content[:min(int64(len(content)), m.Size())], 0)
			s.compare(t, img, m)
			for range 2 {
				for i := range 50 {
					randomStep(t, img, m, r, i)
				}
				s.compare(t, img, m)
				closeImage(t, img)
				s.check(t, name, false)
				img = s.open(t, name, true)
			}
			s.compare(t, img, m)
			closeImage(t, img)
			got := make([]byte, len(content))
			if _, err := base.ReadAt(ctx, got, 0); err != nil || string(got) != string(content) || base.Size() != int64(len(content)) {
				t.Fatal("the backing file has changed")
			}
		})
	}
}
