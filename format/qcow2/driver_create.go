package qcow2

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/layout"
	"github.com/cowl-disk/cowl/opts"
)

// Create lays a new image out in req.File: byte for byte the file that QEMU makes
// for the same options.
func (*Driver) Create(ctx context.Context, req *driver.CreateRequest) error {
	return layout.Create(ctx, req)
}

// Measure tells how large an image file becomes.
func (*Driver) Measure(ctx context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	return layout.Measure(ctx, req)
}

// NewStream writes an image to something that cannot seek.
func (*Driver) NewStream(_ context.Context, w io.Writer, req *driver.StreamRequest) (driver.StreamWriter, error) {
	s, err := layout.NewStream(w, layout.StreamOptions{Size: req.Size, Options: req.Options, Data: func(yield func(layout.Range) bool) {
		for _, r := range req.Data {
			if !yield(layout.Range{Off: r.Offset, Len: r.Length}) {
				return
			}
		}
	}})
	if err != nil {
		return nil, err // not a nil *Stream in an interface
	}
	return s, nil
}

// StreamUnit returns the cluster size that the options ask for.
func (*Driver) StreamUnit(options opts.Dict) (int64, error) { return layout.ClusterSize(options) }

var (
	_ driver.Creator    = (*Driver)(nil)
	_ driver.Measurer   = (*Driver)(nil)
	_ driver.Streamer   = (*Driver)(nil)
	_ driver.StreamUnit = (*Driver)(nil)
)
