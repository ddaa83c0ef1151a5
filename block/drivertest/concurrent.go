package drivertest

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// testConcurrent has several goroutines use one image. Each owns strips of it
// that are smaller than a cluster, so that they meet in every cluster, and knows
// what its own strips hold.
func testConcurrent(t *testing.T, s *suite) {
	const workers, strip = 5, 3000
	steps := 60
	if s.light() {
		steps = 20
	}
	name := s.create(t, nil)
	img := s.open(t, name, true)
	content := make([]byte, img.Size()) // every worker touches its own strips
	for phase := range uint64(3) {
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				r := testkit.Rand(phase*100 + uint64(w))
				for range steps {
					i := r.Int64N(int64(len(content))/strip/workers)*workers + int64(w)
					off := i * strip
					if err := concurrentStep(img, content[off:off+strip], off, r); err != nil {
						t.Errorf("worker %d at %d: %v", w, off, err)
						return
					}
				}
			})
		}
		wg.Go(func() { // somebody who flushes and looks around
			ctx := context.Background()
			for range steps / 4 {
				if err := img.Flush(ctx); err != nil {
					t.Errorf("flush: %v", err)
				}
				for off := int64(0); off < int64(len(content)); {
					st, err := img.Status(ctx, off, int64(len(content))-off, nil)
					if err != nil || st.Length <= 0 {
						t.Errorf("status at %d: %+v, %v", off, st, err)
						return
					}
					off += st.Length
				}
			}
		})
		wg.Wait()
		if t.Failed() {
			return
		}
		m := testkit.NewModel(int64(len(content)))
		m.Write(content, 0)
		s.compare(t, img, m)
		closeImage(t, img)
		s.verify(t, name, m)
		img = s.open(t, name, true)
	}
	closeImage(t, img)
}

// concurrentStep changes or reads one strip, which holds what content says.
func concurrentStep(img *block.Image, content []byte, off int64, r *rand.Rand) error {
	ctx := context.Background()
	from := r.IntN(len(content))
	to := from + 1 + r.IntN(len(content)-from)
	switch r.IntN(6) {
	case 0, 1, 2:
		testkit.Fill(r, content[from:to])
		_, err := img.WriteAt(ctx, content[from:to], off+int64(from))
		return err
	case 3:
		clear(content[from:to])
		return img.WriteZeroes(ctx, off+int64(from), int64(to-from), driver.ZeroMayUnmap)
	case 4:
		if err := img.Discard(ctx, off, int64(len(content))); err != nil {
			return err
		}
		got := make([]byte, len(content))
		if _, err := img.ReadAt(ctx, got, off); err != nil && err != io.EOF {
			return err
		}
		for i, b := range got {
			if b != 0 && b != content[i] {
				return errWrongContent
			}
		}
		copy(content, got)
		return nil
	default:
		got := make([]byte, len(content))
		if _, err := img.ReadAt(ctx, got, off); err != nil && err != io.EOF {
			return err
		}
		if !bytes.Equal(got, content) {
			return errWrongContent
		}
		return nil
	}
}
