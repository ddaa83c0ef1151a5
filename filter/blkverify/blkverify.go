// Package blkverify is the filter that compares: it reads an image and a raw copy of
// it, and writes to both. Where they differ, the read fails with the offset.
package blkverify

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/opts"
)

const prefix = "blkverify:"

var desc = driver.Desc{
	Name:        "blkverify",
	Kind:        driver.KindFilter,
	NoDirectory: true,
	Schemes:     []string{"blkverify"},
	Children: []driver.ChildDesc{
		{Role: "raw", Use: driver.UseFiltered, NameOption: "x-raw"},
		{Role: "test", Use: driver.UseData, NameOption: "x-image"},
	},
	Summary:     "Compares an image with a raw copy",
	OpenOptions: opts.SchemaOf(struct{}{}),
}

type blkverify struct{}

// New returns the driver "blkverify".
func New() driver.Driver { return blkverify{} }

var _ driver.FilenameParser = blkverify{}

// Desc implements driver.Driver.
func (blkverify) Desc() *driver.Desc { return &desc }

// ParseFilename implements driver.FilenameParser: blkverify:RAW:IMAGE.
func (blkverify) ParseFilename(name string) (opts.Dict, error) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return opts.Dict{"x-image": name}, nil
	}
	raw, image, ok := strings.Cut(rest, ":")
	if !ok {
		return nil, driver.Errorf(driver.ErrInvalid, "blkverify requires raw copy and original image path")
	}
	return opts.Dict{"x-raw": raw, "x-image": image}, nil
}

// Open implements driver.Driver.
func (blkverify) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	if err := desc.OpenOptions.Decode(req.Options, &struct{}{}); err != nil {
		return nil, err
	}
	n := &node{Node: pass.Node{Child: req.Child("raw")}, test: req.Child("test")}
	n.name = nameOf(n.Child, n.test)
	return n, nil
}

// nameOf is the name of both children, "" if one has none.
func nameOf(raw, test driver.Storage) string {
	type named interface{ Filename() string }
	a, okA := raw.(named)
	b, okB := test.(named)
	if !okA || !okB || strings.HasPrefix(a.Filename(), "json:") || strings.HasPrefix(b.Filename(), "json:") {
		return ""
	}
	return prefix + a.Filename() + ":" + b.Filename()
}

// node passes the raw copy through, with the size and the contents of the image.
type node struct {
	pass.Node
	test driver.Storage
	name string
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.test.Size() }

// Filename implements driver.Named.
func (n *node) Filename() string { return n.name }

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	m, err := n.test.ReadAt(ctx, p, off)
	if err != nil && err != io.EOF {
		return m, err
	}
	buf := bufpool.Get(m)
	defer bufpool.Put(buf)
	k, e := n.Child.ReadAt(ctx, buf, off)
	if e != nil && e != io.EOF {
		return 0, e
	}
	clear(buf[k:])
	if i := mismatch(p[:m], buf); i >= 0 {
		return 0, driver.Errorf(driver.ErrCorrupt, "blkverify: read offset=%d bytes=%d contents mismatch at offset %d", off, len(p), off+int64(i))
	}
	return m, err
}

// mismatch returns the index of the first difference, -1 if there is none.
func mismatch(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// both runs f for the raw copy and the image, and compares how they end.
func (n *node) both(what string, off int64, f func(driver.Storage) error) error {
	e1, e2 := f(n.Child), f(n.test)
	if (e1 == nil) != (e2 == nil) {
		return driver.Errorf(driver.ErrCorrupt, "blkverify: %s at offset %d ends differently: %w", what, off, errors.Join(e1, e2))
	}
	return e2
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	err := n.both("write", off, func(s driver.Storage) error {
		_, err := s.WriteAt(ctx, p, off)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	// The raw copy must not be slower to say that it cannot.
	return n.both("write zeroes", off, func(s driver.Storage) error {
		return pass.WriteZeroes(ctx, s, off, length, flags&^driver.ZeroNoFallback)
	})
}

// Discard implements driver.Discarder: what is discarded need not read alike.
func (*node) Discard(context.Context, int64, int64) error { return driver.ErrUnsupported }

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error {
	return n.both("flush", -1, func(s driver.Storage) error { return s.Flush(ctx) })
}

// Resize implements driver.Resizer.
func (*node) Resize(context.Context, int64, driver.ResizeOptions) error {
	return driver.Errorf(driver.ErrUnsupported, "image format driver does not support resize")
}
