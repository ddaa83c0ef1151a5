package ops

import (
	"errors"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// bitmapImages makes images in memory and opens them for writing.
func bitmapImages(t *testing.T) func(name, format string, size int64, options opts.Dict) *block.Image {
	t.Helper()
	reg := block.NewRegistry(raw.New(), qcow2.New(), mem.New())
	return func(name, format string, size int64, options opts.Dict) *block.Image {
		t.Helper()
		ctx := t.Context()
		if err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:" + name, Format: format, Size: size, Options: options, Gate: driver.DenyAll}); err != nil {
			t.Fatal(err)
		}
		img, err := block.Open(ctx, reg, block.Source{Filename: "mem:" + name, Format: format}, block.OpenOptions{Write: true, Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
}

func TestBitmaps(t *testing.T) {
	ctx := t.Context()
	open := bitmapImages(t)
	src := open("src", "qcow2", 4<<20, opts.Dict{})
	add := func(img *block.Image, name string, granularity int64, disabled bool) {
		t.Helper()
		if err := img.Bitmaps().Add(ctx, driver.BitmapSpec{Name: name, Granularity: granularity, Disabled: disabled}); err != nil {
			t.Fatal(err)
		}
	}
	add(src, "fine", 512, false)
	add(src, "rests", 1<<20, true)
	if _, err := src.WriteAt(ctx, make([]byte, 1000), 700_000); err != nil {
		t.Fatal(err)
	}
	dst := open("dst", "qcow2", 4<<20, opts.Dict{"cluster_size": "512"})
	if err := CopyBitmaps(ctx, src, dst, nil); err != nil {
		t.Fatal(err)
	}
	a, _, _ := src.Bitmaps().List(ctx)
	b, _, _ := dst.Bitmaps().List(ctx)
	if len(a) != 2 || len(b) != 2 || a[0] != b[0] || a[1] != b[1] || a[0].Dirty != 1536 {
		t.Fatalf("%+v became %+v", a, b)
	}
	// Into coarser granules, and out of them.
	if err := MergeBitmap(ctx, dst, "rests", src, "fine"); err != nil {
		t.Fatal(err)
	}
	if b, _, _ = dst.Bitmaps().List(ctx); b[1].Dirty != 1<<20 {
		t.Fatalf("%+v", b[1])
	}
	if err := MergeBitmap(ctx, src, "fine", dst, "rests"); err != nil {
		t.Fatal(err)
	}
	if a, _, _ = src.Bitmaps().List(ctx); a[0].Dirty != 1<<20 {
		t.Fatalf("%+v", a[0])
	}

	old, other, plain := open("old", "qcow2", 4<<20, opts.Dict{"compat": "0.10"}), open("other", "qcow2", 8<<20, opts.Dict{}), open("raw", "raw", 4<<20, opts.Dict{})
	add(other, "fine", 512, false)
	for name, c := range map[string]struct {
		err  error
		kind error
		text string
	}{
		"copy again":        {CopyBitmaps(ctx, src, dst, nil), driver.ErrExists, "failed to create bitmap fine: "},
		"check raw":         {CheckBitmaps(ctx, plain, false), driver.ErrUnsupported, "source lacks bitmap support"},
		"check version 2":   {CheckBitmaps(ctx, old, true), driver.ErrUnsupported, "source lacks bitmap support"},
		"check":             {CheckBitmaps(ctx, src, false), nil, ""},
		"merge nothing":     {MergeBitmap(ctx, dst, "fine", src, "nope"), driver.ErrNoBitmap, "dirty bitmap 'nope' not found"},
		"merge to nothing":  {MergeBitmap(ctx, dst, "nope", src, "fine"), driver.ErrNoBitmap, "dirty bitmap 'nope' not found"},
		"merge raw":         {MergeBitmap(ctx, dst, "fine", plain, "fine"), driver.ErrNoBitmap, "dirty bitmap 'fine' not found"},
		"merge other size":  {MergeBitmap(ctx, dst, "fine", other, "fine"), driver.ErrInvalid, "bitmaps are of different sizes (destination size is 4194304, source size is 8388608) and can't be merged"},
		"add to raw":        {plain.Bitmaps().Add(ctx, driver.BitmapSpec{Name: "x"}), driver.ErrUnsupported, "can't store persistent bitmaps to"},
		"add to version 2":  {old.Bitmaps().Add(ctx, driver.BitmapSpec{Name: "x"}), driver.ErrUnsupported, "cannot store dirty bitmaps in qcow2 v2 files"},
		"apply a snapshot":  {src.Snapshots().Apply(ctx, "x"), driver.ErrBitmaps, "device has active dirty bitmaps"},
		"remove all of raw": {RemoveBitmaps(ctx, plain), nil, ""},
	} {
		if !errors.Is(c.err, c.kind) || c.err != nil && !strings.Contains(c.err.Error(), c.text) {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	if err := RemoveBitmaps(ctx, src); err != nil {
		t.Fatal(err)
	}
	if a, ok, err := src.Bitmaps().List(ctx); len(a) != 0 || !ok || err != nil {
		t.Fatal(a, ok, err)
	}
	for _, img := range []*block.Image{src, dst, old, other, plain} {
		if err := img.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}
