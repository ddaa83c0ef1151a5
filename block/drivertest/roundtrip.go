package drivertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// testEmpty: a new disk has the size that was asked for, or a little more, and
// reads as zeroes.
func testEmpty(t *testing.T, s *suite) {
	name := s.create(t, nil)
	img := s.open(t, name, false)
	size := img.Size()
	closeImage(t, img)
	if size < s.size || size > s.size+s.size/8+1<<20 {
		t.Fatalf("size %d, asked for %d", size, s.size)
	}
	s.verify(t, name, testkit.NewModel(size))
}

// testRoundTrip writes at and around every boundary that could matter, each into
// a disk of known content, and reads it back through the same and a new node.
func testRoundTrip(t *testing.T, s *suite) {
	ctx := context.Background()
	name := s.create(t, nil)
	img := s.open(t, name, true)
	m := testkit.NewModel(img.Size())
	cluster := max(img.Limits().ClusterSize, 4096)
	var marks []int64
	for _, base := range []int64{0, 512, 4096, cluster, 2 * cluster, img.Size()/cluster*cluster - cluster, img.Size() / cluster * cluster, img.Size()} {
		for _, d := range []int64{-513, -512, -1, 0, 1, 511, 512, 513} {
			if off := base + d; off >= 0 && off <= img.Size() {
				marks = append(marks, off)
			}
		}
	}
	r := testkit.Rand(1)
	for i, from := range marks {
		to := marks[(i*7+3)%len(marks)]
		if from > to {
			from, to = to, from
		}
		p := make([]byte, to-from)
		testkit.Fill(r, p)
		if n, err := img.WriteAt(ctx, p, from); err != nil || n != len(p) {
			t.Fatalf("write %d+%d: %d, %v", from, len(p), n, err)
		}
		m.Write(p, from)
		// With a sector more on both sides, so that neighbours show.
		from, to = max(from-512, 0), min(to+512, img.Size())
		got := make([]byte, to-from)
		if _, err := img.ReadAt(ctx, got, from); err != nil && err != io.EOF {
			t.Fatalf("read %d+%d: %v", from, len(got), err)
		}
		if d := m.Diff(got, from); d != "" {
			t.Fatal(d)
		}
	}
	closeImage(t, img)
	s.verify(t, name, m)
}

// testBounds: the end of the disk is respected.
func testBounds(t *testing.T, s *suite) {
	ctx := context.Background()
	name := s.create(t, nil)
	img := s.open(t, name, true)
	defer closeImage(t, img)
	size := img.Size()
	p := make([]byte, 1000)
	if n, err := img.ReadAt(ctx, p, size-100); n != 100 || err != io.EOF {
		t.Errorf("read across the end: %d, %v", n, err)
	}
	if n, err := img.ReadAt(ctx, p, size); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if _, err := img.ReadAt(ctx, p, -1); err == nil {
		t.Error("a negative offset was read")
	}
	if _, err := img.WriteAt(ctx, p, -1); err == nil {
		t.Error("a negative offset was written")
	}
	if n, err := img.WriteAt(ctx, nil, size); n != 0 || err != nil {
		t.Errorf("nothing written at the end: %d, %v", n, err)
	}
	if !s.isFormat() {
		return // protocols grow
	}
	for _, off := range []int64{size - 999, size, size + 1<<30, 1<<63 - 1000} {
		if _, err := img.WriteAt(ctx, p, off); !errors.Is(err, driver.ErrRange) {
			t.Errorf("write at %d of %d: %v", off, size, err)
		}
		if err := img.WriteZeroes(ctx, off, 1000, 0); !errors.Is(err, driver.ErrRange) {
			t.Errorf("zeroes at %d of %d: %v", off, size, err)
		}
	}
	if img.Size() != size {
		t.Error("the size has changed")
	}
}

// testReadOnly: an image opened for reading cannot be changed, and is not.
func testReadOnly(t *testing.T, s *suite) {
	ctx := context.Background()
	name := s.create(t, nil)
	img := s.open(t, name, true)
	content := bytes.Repeat([]byte("content "), 20000)
	if _, err := img.WriteAt(ctx, content, 12345); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	var before *mem.Disk
	if s.isFormat() {
		before = s.disk(name).Clone()
	}
	img = s.open(t, name, false)
	_, err := img.WriteAt(ctx, []byte("x"), 0)
	for what, err := range map[string]error{"write": err, "zeroes": img.WriteZeroes(ctx, 0, 512, 0),
		"discard": img.Discard(ctx, 0, 1<<20), "resize": img.Resize(ctx, s.size*2, driver.ResizeOptions{})} {
		if err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	got := make([]byte, len(content))
	if _, err := img.ReadAt(ctx, got, 12345); err != nil || !bytes.Equal(got, content) {
		t.Errorf("wrong content, %v", err)
	}
	closeImage(t, img)
	if before == nil {
		return
	}
	a, b := make([]byte, before.Size()), make([]byte, s.disk(name).Size())
	_, _ = before.ReadAt(ctx, a, 0)
	_, _ = s.disk(name).ReadAt(ctx, b, 0)
	if !bytes.Equal(a, b) {
		t.Error("the file has changed")
	}
}

// testCancel: a cancelled context ends requests and leaves the image whole.
func testCancel(t *testing.T, s *suite) {
	name := s.create(t, nil)
	img := s.open(t, name, true)
	m := testkit.NewModel(img.Size())
	ctx, cancel := context.WithCancel(context.Background())
	p := bytes.Repeat([]byte{7}, 100000)
	if _, err := img.WriteAt(ctx, p, 1000); err != nil {
		t.Fatal(err)
	}
	m.Write(p, 1000)
	cancel()
	if _, err := img.WriteAt(ctx, make([]byte, 100000), 1000); !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
	if _, err := img.ReadAt(ctx, p, 1000); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
	closeImage(t, img)
	s.verify(t, name, m)
}
