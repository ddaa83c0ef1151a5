package qcow2

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// NewStream writes an image to something that cannot seek.
func (*Driver) NewStream(_ context.Context, w io.Writer, req *driver.StreamRequest) (driver.StreamWriter, error) {
	s, err := NewStream(w, StreamOptions{Size: req.Size, Options: req.Options, Data: func(yield func(Range) bool) {
		for _, r := range req.Data {
			if !yield(Range{r.Offset, r.Length}) {
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
func (*Driver) StreamUnit(options opts.Dict) (int64, error) {
	p, err := decodeCreate(options, 0)
	if err != nil {
		return 0, err
	}
	return 1 << p.clusterBits, nil
}

var (
	_ driver.Streamer   = (*Driver)(nil)
	_ driver.StreamUnit = (*Driver)(nil)
)
