package drivertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

var errWrongContent = errors.New("wrong content")

// addBase makes a backing file that holds content.
func (s *suite) addBase(t *testing.T, name string, content []byte) {
	t.Helper()
	ctx := context.Background()
	if s.BackingFormat == "" {
		d := mem.NewDisk(0)
		if _, err := d.WriteAt(ctx, content, 0); err != nil {
			t.Fatal(err)
		}
		s.mem.Add(name, d)
		return
	}
	err := block.Create(ctx, s.reg, block.CreateRequest{Filename: "mem:" + name, Format: s.BackingFormat, Size: int64(len(content)), Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	img, err := block.Open(ctx, s.reg, block.Source{Filename: "mem:" + name, Format: s.BackingFormat}, block.OpenOptions{Write: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt(ctx, content, 0); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
}

// on gives the options of an image with a backing file.
func (s *suite) on(name string) opts.Dict {
	format := s.BackingFormat
	if format == "" {
		format = "raw"
	}
	return opts.Dict{"backing_file": "mem:" + name, "backing_fmt": format}
}

// bytesOf returns what a disk in memory holds.
func bytesOf(t *testing.T, d *mem.Disk) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(context.Background(), b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

// testBacking runs the random operations on images with a backing file that is
// shorter, as long and longer than the disk. The backing file must not change.
func testBacking(t *testing.T, s *suite) {
	if !s.desc().HasBacking() {
		t.Skip("the format has no backing files")
	}
	for _, c := range []struct {
		name string
		size int64
	}{{"shorter", s.size/2 + 512*5}, {"as long", s.size}, {"longer", s.size + 1<<20}} {
		t.Run(c.name, func(t *testing.T) {
			r := testkit.Rand(uint64(c.size))
			content := make([]byte, c.size/512*512)
			testkit.FillDisk(r, content)
			s.addBase(t, "base", content)
			before := bytesOf(t, s.mem.Disk("base"))
			name := s.create(t, s.on("base"))
			img := s.open(t, name, true)
			m := testkit.NewModel(img.Size())
			m.Write(content[:min(int64(len(content)), m.Size())], 0)
			s.compare(t, img, m)
			for range 2 {
				for i := range 50 {
					s.randomStep(t, img, m, r, i)
				}
				s.compare(t, img, m)
				closeImage(t, img)
				s.check(t, name, false)
				img = s.open(t, name, true)
			}
			s.compare(t, img, m)
			closeImage(t, img)
			if !bytes.Equal(bytesOf(t, s.mem.Disk("base")), before) {
				t.Fatal("the backing file has changed")
			}
		})
	}
}

// testChangeBacking records another backing file, and none, and looks at what
// the disk reads then.
func testChangeBacking(t *testing.T, s *suite) {
	if !s.desc().HasBacking() || s.Skip["Backing"] != "" {
		t.Skip("the format has no backing files")
	}
	ctx := context.Background()
	for _, base := range []string{"one", "another"} {
		s.addBase(t, base, bytes.Repeat([]byte(base), int(s.size)/len(base)+1)[:s.size])
	}
	name := s.create(t, s.on("one"))
	img := s.open(t, name, true)
	if _, ok := img.Tree().Node().(driver.BackingChanger); !ok {
		closeImage(t, img)
		t.Skip("the driver does not change backing files")
	}
	if _, err := img.WriteAt(ctx, []byte("own"), 100000); err != nil {
		t.Fatal(err)
	}
	cluster := img.Limits().ClusterSize
	for _, c := range []struct {
		ref  driver.BackingRef
		want byte // what the first byte reads as
	}{
		{driver.BackingRef{Filename: "mem:another", Format: "raw"}, 'a'},
		{driver.BackingRef{}, 0},
		{driver.BackingRef{Filename: "mem:one", Format: "raw"}, 'o'},
	} {
		if err := img.Tree().Node().(driver.BackingChanger).ChangeBacking(ctx, c.ref); err != nil {
			t.Fatalf("%+v: %v", c.ref, err)
		}
		closeImage(t, img)
		s.check(t, name, false)
		img = s.open(t, name, true)
		i, err := img.State(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := i.Backing; (got == nil) != (c.ref.Filename == "") || got != nil && *got != c.ref {
			t.Fatalf("backing file %+v, want %+v", got, c.ref)
		}
		p := make([]byte, 1)
		if _, err := img.ReadAt(ctx, p, 0); err != nil || p[0] != c.want {
			t.Fatalf("%+v: read %q, %v", c.ref, p, err)
		}
		// The cluster that was written came from the first backing file.
		got := make([]byte, 3)
		if _, err := img.ReadAt(ctx, got, 100000); err != nil || string(got) != "own" {
			t.Fatalf("%+v: read %q, %v", c.ref, got, err)
		}
		if cluster >= 4096 {
			if _, err := img.ReadAt(ctx, p, 100003); err != nil || p[0] != "one"[100003%3] {
				t.Fatalf("%+v: the edge of what was written reads %q, %v", c.ref, p, err)
			}
		}
	}
	closeImage(t, img)
}
