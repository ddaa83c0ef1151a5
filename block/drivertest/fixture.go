package drivertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// Fixture is an image that exists already, for formats and protocols that only read.
type Fixture struct {
	Driver  driver.Driver
	Image   []byte // the file of a format
	Content []byte // the disk
	// Serve makes an object of a protocol with the content and returns its name.
	Serve func(t *testing.T, content []byte) string
}

// RunFixture runs what applies to reading.
func RunFixture(t *testing.T, f Fixture) {
	ctx := context.Background()
	disk := mem.NewDisk(0)
	if _, err := disk.WriteAt(ctx, f.Image, 0); err != nil {
		t.Fatal(err)
	}
	newSuite := func() *suite {
		s := newSuite(Harness{Driver: f.Driver, Size: int64(len(f.Content))})
		s.mem.Add("fixture", disk.Clone())
		return s
	}
	name := "mem:fixture"
	if f.Serve != nil {
		name = f.Serve(t, f.Content)
	}
	t.Run("Content", func(t *testing.T) {
		s := newSuite()
		m := testkit.NewModel(s.size)
		m.Write(f.Content, 0)
		s.verify(t, name, m)
	})
	t.Run("Probe", func(t *testing.T) {
		if _, ok := f.Driver.(driver.Prober); !ok {
			t.Skip("the driver does not probe")
		}
		img, err := block.Open(ctx, newSuite().reg, block.Source{Filename: name}, block.OpenOptions{Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		defer closeImage(t, img)
		if img.Format() != f.Driver.Desc().Name {
			t.Fatalf("taken for %s", img.Format())
		}
	})
	t.Run("Concurrent", func(t *testing.T) {
		img := newSuite().open(t, name, false)
		defer closeImage(t, img)
		var wg sync.WaitGroup
		for w := range uint64(4) {
			wg.Go(func() {
				r := testkit.Rand(w)
				for range 50 {
					off, n := pick(r, int64(len(f.Content)), img.Limits().ClusterSize)
					p := make([]byte, n)
					if _, err := img.ReadAt(ctx, p, off); err != nil && err != io.EOF || !bytes.Equal(p, f.Content[off:off+n]) {
						t.Errorf("%d bytes at %d: wrong content, or %v", n, off, err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
	t.Run("Cancel", func(t *testing.T) {
		img := newSuite().open(t, name, false)
		defer closeImage(t, img)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := img.ReadAt(ended, make([]byte, len(f.Content)), 0); !errors.Is(err, context.Canceled) {
			t.Errorf("reading with a context that has ended: %v", err)
		}
	})
	if f.Serve == nil {
		t.Run("Damaged", func(t *testing.T) { newSuite().damaged(t, disk) })
	}
}
