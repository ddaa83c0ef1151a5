package drivertest

import (
	"context"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const (
	strictUnit = 4096
	strictMost = 24 << 10
)

// strict opens the disks of mem as a device that takes whole units and small requests
// only. Any other request fails the test.
type strict struct {
	t   testing.TB
	mem *mem.Driver
}

var strictDesc = driver.Desc{Name: "strict", Kind: driver.KindProtocol, Schemes: []string{"strict"}, OpenOptions: opts.SchemaOf(strictOptions{})}

type strictOptions struct {
	Filename string `opt:"filename"`
}

func (s *strict) Desc() *driver.Desc { return &strictDesc }

func (s *strict) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o strictOptions
	if err := strictDesc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	return &strictNode{s.mem.Disk(o.Filename), s.t}, nil
}

type strictNode struct {
	*mem.Disk
	t testing.TB
}

func (n *strictNode) Limits() driver.Limits {
	return driver.Limits{RequestAlignment: strictUnit, MaxTransfer: strictMost}
}

// judge fails the test for a request that the limits forbid.
func (n *strictNode) judge(op string, off, length, most int64) {
	end := off + length
	if off%strictUnit != 0 || end%strictUnit != 0 && end != n.Size() || length > most {
		n.t.Errorf("%s of %d bytes at %d on a device with units of %d and at most %d bytes a request", op, length, off, strictUnit, most)
	}
}

func (n *strictNode) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n.judge("read", off, int64(len(p)), strictMost)
	return n.Disk.ReadAt(ctx, p, off)
}

func (n *strictNode) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	n.judge("write", off, int64(len(p)), strictMost)
	return n.Disk.WriteAt(ctx, p, off)
}

func (n *strictNode) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	n.judge("write zeroes", off, length, 1<<62)
	return n.Disk.WriteZeroes(ctx, off, length, flags)
}

func (n *strictNode) Discard(ctx context.Context, off, length int64) error {
	n.judge("discard", off, length, 1<<62)
	return n.Disk.Discard(ctx, off, length)
}

// testStrict runs random operations on a device that wants whole units.
func testStrict(t *testing.T, s *suite) {
	if !s.isFormat() || s.Open != nil {
		t.Skip("a format with no further options has it shown")
	}
	name := s.create(t, nil)
	s.reg = block.NewRegistry(s.Driver, s.mem, raw.New(), &strict{t, s.mem})
	src := block.Source{Filename: "strict:" + name[len("mem:"):], Format: s.desc().Name}
	open := func(write bool) *block.Image {
		img, err := block.Open(t.Context(), s.reg, src, block.OpenOptions{Write: write, Sharing: block.Sharing{Resize: write}, Unmap: true, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	img := open(true)
	m := testkit.NewModel(img.Size())
	r := testkit.Rand(7)
	steps := 150
	if s.light() {
		steps = 50
	}
	for i := range steps {
		s.randomStep(t, img, m, r, i)
	}
	s.compare(t, img, m)
	closeImage(t, img)
	img = open(false)
	s.compare(t, img, m)
	closeImage(t, img)
	s.check(t, name, false)
}
