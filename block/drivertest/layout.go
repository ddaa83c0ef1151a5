package drivertest

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// testProbe: an image is recognised for what it is.
func testProbe(t *testing.T, s *suite) {
	if _, ok := s.Driver.(driver.Prober); !ok {
		t.Skip("the driver does not probe")
	}
	img, err := block.Open(context.Background(), s.reg, block.Source{Filename: s.create(t, nil)}, block.OpenOptions{Gate: driver.DenyAll, Use: block.Use{NoIO: s.Open != nil}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeImage(t, img)
	if img.Format() != s.desc().Name {
		t.Fatalf("taken for %s", img.Format())
	}
}

// testMeasure: the file is no larger than what was measured, neither new nor
// written from start to end.
func testMeasure(t *testing.T, s *suite) {
	m, ok := s.Driver.(driver.Measurer)
	if !ok {
		t.Skip("the driver does not measure")
	}
	ctx := context.Background()
	res, err := m.Measure(ctx, &driver.MeasureRequest{Size: s.size, Options: s.Options, Objects: s.Objects})
	if err != nil {
		t.Fatal(err)
	}
	name := s.create(t, nil)
	if got := s.disk(name).Size(); got > res.Required && s.Options["preallocation"] == nil {
		t.Errorf("a new file has %d bytes, measured %d", got, res.Required)
	}
	img := s.open(t, name, true)
	p := bytes.Repeat([]byte{1}, 1<<20)
	for off := int64(0); off < img.Size(); off += int64(len(p)) {
		if _, err := img.WriteAt(ctx, p[:min(int64(len(p)), img.Size()-off)], off); err != nil {
			t.Fatal(err)
		}
	}
	closeImage(t, img)
	if got := s.disk(name).Size(); got > res.FullyAllocated {
		t.Errorf("a full file has %d bytes, measured %d", got, res.FullyAllocated)
	}
}

// testStaleMemory: bytes that were never written to an image must not come from
// buffers that were used for something else.
func testStaleMemory(t *testing.T, s *suite) {
	if !s.isFormat() {
		t.Skip("protocols lay nothing out")
	}
	m := testkit.NewModel(s.size)
	t.Run("new", func(t *testing.T) { s.staleMemory(t, s.create(t, nil), m) })
	if !s.desc().HasBacking() || s.Skip["Backing"] != "" {
		return
	}
	content := bytes.Repeat([]byte("backing "), int(s.size/8))
	s.addBase(t, "base", content)
	m.Write(content, 0)
	t.Run("overlay", func(t *testing.T) {
		s.staleMemory(t, s.create(t, s.on("base")), m)
	})
}

// staleMemory writes to an image that holds what m says, and looks for bytes in
// the file that cannot have been meant to be there.
func (s *suite) staleMemory(t *testing.T, name string, m *testkit.Model) {
	m = m.Clone()
	ctx := context.Background()
	stale := bytes.Repeat([]byte{0xdb, 0x5a}, 128)
	poison := func() {
		for size := 4096; size <= 4<<20; size *= 2 {
			for range 4 {
				b := bufpool.Get(size)
				defer bufpool.Put(b) // all at once, when every one is different
				repeat(b, stale)
			}
		}
	}
	img := s.open(t, name, true)
	m.Resize(img.Size())
	for _, off := range []int64{0, 1 << 20, 2<<20 + 12345, img.Size() - 100, img.Size() - 1} {
		poison()
		if _, err := img.WriteAt(ctx, []byte{1}, off); err != nil {
			t.Fatal(err)
		}
		m.Write([]byte{1}, off)
		poison()
		if err := img.WriteZeroes(ctx, max(off-5000, 0), 3333, 0); err != nil {
			t.Fatal(err)
		}
		m.Zero(max(off-5000, 0), 3333)
		poison()
		if err := img.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.compare(t, img, m)
	closeImage(t, img)
	d := s.disk(name)
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(ctx, b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if i := bytes.Index(b, stale[:16]); i >= 0 {
		t.Fatalf("at byte %d of the file lies what another buffer held", i)
	}
}
