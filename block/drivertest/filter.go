package drivertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// Filter tells the suite for filters about a driver.
type Filter struct {
	Driver driver.Driver
	// Format is what the children are in. It has snapshots, bitmaps and a check, so
	// that the suite sees whether the filter lets them through.
	Format driver.Driver
	// Roles are those of the children, "file" if nil. Each gets an image of its own.
	Roles []string
	// Raw are roles whose child is a raw disk.
	Raw map[string]bool
	// Options are given to the filter. Objects are what they refer to.
	Options opts.Dict
	Objects driver.Objects
	// NoResize: the filter refuses to change its size.
	NoResize bool
}

// RunFilter runs the suite for filters. A filter with children of equal contents, and
// one that passes a child through, read and write like a disk; the latter describes
// itself as the child does.
func RunFilter(t *testing.T, f Filter) {
	if f.Roles == nil {
		f.Roles = []string{"file"}
	}
	for _, c := range []struct {
		name string
		run  func(*filterSuite, *testing.T)
	}{
		{"Random", (*filterSuite).random},
		{"Concurrent", (*filterSuite).concurrent},
		{"Status", (*filterSuite).status},
		{"Abilities", (*filterSuite).abilities},
		{"Resize", (*filterSuite).resize},
		{"ReadOnly", (*filterSuite).readOnly},
		{"Cancel", (*filterSuite).cancel},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSuite(Harness{Driver: f.Format, Light: true})
			s.reg = block.NewRegistry(f.Driver, f.Format, s.mem, raw.New())
			fsuite := &filterSuite{suite: s, f: f}
			fsuite.make(t)
			c.run(fsuite, t)
		})
	}
}

type filterSuite struct {
	*suite
	f     Filter
	names []string // of the children's disks, by role
}

// make creates the children: equal disks of zeroes.
func (s *filterSuite) make(t *testing.T) {
	for _, role := range s.f.Roles {
		if s.f.Raw[role] {
			name := s.newName(t)
			if err := block.Create(t.Context(), s.reg, block.CreateRequest{Filename: name, Format: "raw", Size: s.size, Options: opts.Dict{}}); err != nil {
				t.Fatal(err)
			}
			s.names = append(s.names, name)
			continue
		}
		s.names = append(s.names, s.create(t, nil))
	}
}

// childOptions are those that open the child of a role.
func (s *filterSuite) childOptions(i int) opts.Dict {
	format := s.f.Format.Desc().Name
	switch role := s.f.Roles[i]; {
	case s.f.Driver.Desc().Child(role).Use == driver.UseMetadata:
		return opts.Dict{"driver": "mem", "filename": s.names[i][len("mem:"):]}
	case s.f.Raw[role]:
		format = "raw"
	}
	return opts.Dict{"driver": format, "file.driver": "mem", "file.filename": s.names[i][len("mem:"):]}
}

func (s *filterSuite) open(t testing.TB, write bool) *block.Image {
	t.Helper()
	o := opts.Dict{"driver": s.f.Driver.Desc().Name}
	for k, v := range s.f.Options {
		o[k] = v
	}
	for i, role := range s.f.Roles {
		for k, v := range s.childOptions(i) {
			o[role+"."+k] = v
		}
	}
	img, err := block.Open(context.Background(), s.reg, block.Source{Options: o},
		block.OpenOptions{Write: write, Sharing: block.Sharing{Resize: write}, Unmap: true, Gate: driver.DenyAll, Objects: s.f.Objects})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return img
}

// openChild opens the child of a role alone.
func (s *filterSuite) openChild(t testing.TB, i int) *block.Image {
	t.Helper()
	img, err := block.Open(context.Background(), s.reg, block.Source{Options: s.childOptions(i)}, block.OpenOptions{Gate: driver.DenyAll})
	if err != nil {
		t.Fatalf("open the child %s: %v", s.f.Roles[i], err)
	}
	return img
}

// passes says whether the filter passes a child through, and which.
func (s *filterSuite) passed() int {
	role := s.f.Driver.Desc().PassesThrough()
	for i, r := range s.f.Roles {
		if r == role {
			return i
		}
	}
	return -1
}

// random compares random operations with a model, and at the end what the children
// hold.
func (s *filterSuite) random(t *testing.T) {
	for seed := range uint64(2) {
		img := s.open(t, true)
		m := testkit.NewModel(img.Size())
		if seed > 0 {
			p := make([]byte, m.Size())
			if _, err := img.ReadAt(t.Context(), p, 0); err != nil {
				t.Fatal(err)
			}
			m.Write(p, 0)
		}
		r := testkit.Rand(seed)
		for i := range 80 {
			if s.f.NoResize {
				s.writeStep(t, img, m, r.Uint64())
				continue
			}
			s.randomStep(t, img, m, r, i)
		}
		s.compare(t, img, m)
		closeImage(t, img)
		img = s.open(t, true)
		s.compare(t, img, m)
		closeImage(t, img)
		for i := range s.f.Roles {
			if s.f.Driver.Desc().Child(s.f.Roles[i]).Use == driver.UseMetadata {
				continue
			}
			child := s.openChild(t, i)
			s.compare(t, child, m)
			closeImage(t, child)
			if !s.f.Raw[s.f.Roles[i]] {
				s.check(t, s.names[i], false)
			}
		}
	}
}

// writeStep writes, zeroes or discards and reads back.
func (s *filterSuite) writeStep(t *testing.T, img *block.Image, m *testkit.Model, seed uint64) {
	r := testkit.Rand(seed)
	off, n := pick(r, m.Size(), img.Limits().ClusterSize)
	p := make([]byte, n)
	var err error
	switch r.IntN(3) {
	case 0:
		err = img.WriteZeroes(t.Context(), off, n, 0)
	default:
		testkit.FillDisk(r, p)
		_, err = img.WriteAt(t.Context(), p, off)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.Write(p, off)
	got := make([]byte, n)
	if _, err := img.ReadAt(t.Context(), got, off); err != nil && err != io.EOF || !bytes.Equal(got, p) {
		t.Fatalf("%d bytes at %d read otherwise than they were written, or %v", n, off, err)
	}
}

// concurrent has writers with parts of the disk of their own.
func (s *filterSuite) concurrent(t *testing.T) {
	img := s.open(t, true)
	m := testkit.NewModel(img.Size())
	var mu sync.Mutex
	var wg sync.WaitGroup
	const writers = 6
	part := img.Size() / writers
	for w := range uint64(writers) {
		wg.Go(func() {
			r := testkit.Rand(w)
			for range 40 {
				off := r.Int64N(part)
				p := make([]byte, 1+r.Int64N(part-off))
				if len(p) > 100_000 {
					p = p[:100_000]
				}
				testkit.FillDisk(r, p)
				at := int64(w)*part + off
				if _, err := img.WriteAt(t.Context(), p, at); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, len(p))
				if _, err := img.ReadAt(t.Context(), got, at); err != nil && err != io.EOF || !bytes.Equal(got, p) {
					t.Errorf("%d bytes at %d read otherwise than they were written, or %v", len(p), at, err)
					return
				}
				mu.Lock()
				m.Write(p, at)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.compare(t, img, m)
	closeImage(t, img)
}

// status wants the filter to describe the disk as its child does.
func (s *filterSuite) status(t *testing.T) {
	i := s.passed()
	if i < 0 {
		t.Skip("the filter passes no child through")
	}
	img := s.open(t, true)
	unit := max(img.Limits().ClusterSize, 64<<10)
	for k := range int64(5) {
		if _, err := img.WriteAt(t.Context(), bytes.Repeat([]byte{1}, int(unit)), k*3*unit); err != nil {
			t.Fatal(err)
		}
	}
	closeImage(t, img)
	img, child := s.open(t, true), s.openChild(t, i)
	extents := 0
	for off := int64(0); off < child.Size(); {
		want, err := child.Status(t.Context(), off, child.Size()-off, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := img.Status(t.Context(), off, img.Size()-off, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.Length != want.Length || got.Data != want.Data || got.Zero != want.Zero || got.Allocated != want.Allocated ||
			got.HasOffset != want.HasOffset || got.Offset != want.Offset || got.Depth != want.Depth || got.Layer != img {
			t.Fatalf("at %d: %+v, want %+v", off, got, want)
		}
		off += got.Length
		extents++
	}
	if extents < 9 {
		t.Errorf("%d extents: the disk is too simple for this test", extents)
	}
	closeImage(t, child)
	closeImage(t, img)
}

// abilities uses through the filter what the child can do.
func (s *filterSuite) abilities(t *testing.T) {
	i := s.passed()
	if i < 0 || s.f.Raw[s.f.Roles[i]] {
		t.Skip("no child of the format is passed through")
	}
	ctx := t.Context()
	img := s.open(t, true)
	if _, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "s"}); err != nil {
		t.Errorf("create snapshot: %v", err)
	}
	if list, ok, err := img.Snapshots().List(ctx); err != nil || !ok || len(list) != 1 {
		t.Errorf("snapshots: %v, %v, %v", list, ok, err)
	}
	if err := img.Snapshots().Delete(ctx, "1", "s"); err != nil {
		t.Errorf("delete snapshot: %v", err)
	}
	if err := img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: "b"}); err != nil {
		t.Errorf("add bitmap: %v", err)
	}
	if _, err := img.WriteAt(ctx, []byte{1}, 0); err != nil {
		t.Error(err)
	}
	if list, ok, err := img.Bitmaps().List(ctx); err != nil || !ok || len(list) != 1 || list[0].Dirty == 0 {
		t.Errorf("bitmaps: %+v, %v, %v", list, ok, err)
	}
	if _, dirty, err := img.Bitmaps().Extent(ctx, "b", 0, 512); err != nil || !dirty {
		t.Errorf("bitmap extent: %v, %v", dirty, err)
	}
	if err := img.Bitmaps().Remove(ctx, "b"); err != nil {
		t.Errorf("remove bitmap: %v", err)
	}
	if _, ok := block.Ability[driver.Amender](img); !ok {
		t.Error("the child's way to amend is not found")
	}
	if got, want := img.Limits().ClusterSize, img.Tree().PassedThrough().Limits().ClusterSize; got != want {
		t.Errorf("clusters of %d bytes, want %d", got, want)
	}
	c, ok := block.Ability[driver.Checker](img)
	if !ok {
		t.Fatal("the child's check is not found")
	}
	if err := img.Flush(ctx); err != nil {
		t.Error(err)
	}
	if res, err := c.Check(ctx, driver.CheckFix{}, func(string) {}, nil); err != nil || res.Corruptions != 0 || res.AllocatedClusters == 0 {
		t.Errorf("check: %+v, %v", res, err)
	}
	closeImage(t, img)
}

func (s *filterSuite) resize(t *testing.T) {
	img := s.open(t, true)
	defer closeImage(t, img)
	size := img.Size() + 1<<20
	err := img.Resize(t.Context(), size, driver.ResizeOptions{})
	switch {
	case s.f.NoResize && !unsupported(err):
		t.Errorf("resize: %v", err)
	case !s.f.NoResize && (err != nil || img.Size() != size):
		t.Errorf("resize: %v, size %d, want %d", err, img.Size(), size)
	}
}

func (s *filterSuite) readOnly(t *testing.T) {
	if s.f.Driver.Desc().Name == "copy-on-read" {
		t.Skip("the filter writes when it is read")
	}
	img := s.open(t, false)
	if _, err := img.WriteAt(t.Context(), []byte{1}, 0); !errors.Is(err, driver.ErrReadOnly) {
		t.Errorf("write: %v", err)
	}
	if err := img.Discard(t.Context(), 0, 512); !errors.Is(err, driver.ErrReadOnly) {
		t.Errorf("discard: %v", err)
	}
	closeImage(t, img)
	if _, err := img.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
}

func (s *filterSuite) cancel(t *testing.T) {
	img := s.open(t, true)
	defer closeImage(t, img)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := img.WriteAt(ctx, make([]byte, 1<<20), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
}
