package null

import (
	"context"
	"io"
	"math"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// defaultSize is the size of a node that is not given one.
const defaultSize = 1 << 30

type openOptions struct {
	Size       *int64 `opt:"size" type:"size" help:"size of the null block"`
	LatencyNS  string `opt:"latency-ns" type:"str" help:"nanoseconds (approximated) to wait before completing request"`
	ReadZeroes bool   `opt:"read-zeroes" default:"off" help:"return zeroes when read"`
}

type null struct{ desc *driver.Desc }

// NewCo returns the driver "null-co".
func NewCo() driver.Driver { return newNull("null-co") }

// NewAIO returns the driver "null-aio".
func NewAIO() driver.Driver { return newNull("null-aio") }

func newNull(name string) driver.Driver {
	return &null{&driver.Desc{
		Name:        name,
		Kind:        driver.KindProtocol,
		Schemes:     []string{name},
		Summary:     "A disk that forgets what is written to it",
		OpenOptions: opts.SchemaOf(openOptions{}),
	}}
}

var _ driver.FilenameParser = (*null)(nil)

// Desc implements driver.Driver.
func (d *null) Desc() *driver.Desc { return d.desc }

// ParseFilename implements driver.FilenameParser: the bare prefix is all there is.
func (d *null) ParseFilename(name string) (opts.Dict, error) {
	if name != d.desc.Name+"://" {
		return nil, driver.Errorf(driver.ErrInvalid, "the only allowed filename for this driver is '%s://'", d.desc.Name)
	}
	return opts.Dict{}, nil
}

// Open implements driver.Driver.
func (d *null) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := d.desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	n := &node{zeroes: o.ReadZeroes, write: req.Access.Write, filename: d.desc.Name + "://"}
	size := int64(defaultSize)
	if o.Size != nil {
		size, n.filename = *o.Size, ""
	}
	n.size = size
	if o.LatencyNS != "" {
		ns, err := opts.ParseSize(o.LatencyNS)
		if err != nil {
			return nil, driver.Errorf(driver.ErrInvalid, "latency-ns is invalid")
		}
		n.latency = time.Duration(ns)
	}
	return n, nil
}

type node struct {
	size     int64
	zeroes   bool
	write    bool
	latency  time.Duration
	filename string // "" if options say more than a name can
}

var (
	_ driver.Storage    = (*node)(nil)
	_ driver.ZeroWriter = (*node)(nil)
	_ driver.Discarder  = (*node)(nil)
)

// wait simulates the time that a request takes.
func (n *node) wait(ctx context.Context) error {
	if n.latency <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(n.latency)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *node) Size() int64           { return n.size }
func (n *node) Limits() driver.Limits { return driver.Limits{} }

func (n *node) Traits() driver.Traits {
	return driver.Traits{FixedSize: true, ZeroInit: n.zeroes}
}

// Filename implements driver.Named.
func (n *node) Filename() string { return n.filename }

// DiskUsage implements driver.SpaceTeller.
func (n *node) DiskUsage(context.Context) (int64, error) { return 0, nil }

func (n *node) Flush(ctx context.Context) error { return n.wait(ctx) }
func (n *node) Close(context.Context) error     { return nil }

func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, driver.Errorf(driver.ErrInvalid, "negative offset")
	}
	if err := n.wait(ctx); err != nil {
		return 0, err
	}
	var err error
	if left := max(n.Size()-off, 0); int64(len(p)) > left {
		p, err = p[:left], io.EOF
	}
	clear(p)
	return len(p), err
}

func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.change(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (n *node) WriteZeroes(ctx context.Context, off, length int64, _ driver.ZeroFlags) error {
	return n.change(ctx, off, length)
}

func (n *node) Discard(ctx context.Context, off, length int64) error {
	return n.change(ctx, off, length)
}

func (n *node) change(ctx context.Context, off, length int64) error {
	switch {
	case !n.write:
		return driver.Errorf(driver.ErrReadOnly, "the node is read-only")
	case off < 0 || length < 0 || off > math.MaxInt64-length:
		return driver.Errorf(driver.ErrInvalid, "impossible range")
	case off+length > n.Size():
		return driver.Errorf(driver.ErrRange, "beyond the end")
	}
	return n.wait(ctx)
}

func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	left := n.Size() - off
	switch {
	case ctx.Err() != nil:
		return driver.Extent{}, ctx.Err()
	case left <= 0:
		return driver.Extent{}, nil
	case n.zeroes:
		return driver.Extent{Length: min(length, left), Kind: driver.ExtentZero, HostOffset: off, HasOffset: true}, nil
	}
	return driver.Extent{Length: min(length, left), Kind: driver.ExtentData, HostOffset: off, HasOffset: true}, nil
}
