package driver

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/opts"
)

// Range is a part of a disk, in bytes.
type Range struct{ Offset, Length int64 }

// Streamer is implemented by formats that can be written to a pipe: all
// metadata first, then the data, without ever seeking back.
type Streamer interface {
	NewStream(ctx context.Context, w io.Writer, req *StreamRequest) (StreamWriter, error)
}

// StreamRequest says what will be written.
type StreamRequest struct {
	Size    int64
	Options opts.Dict // of CreateOptions, those that make sense
	// Data holds the ranges of the guest disk that hold data: sorted, apart from
	// each other, multiples of StreamUnit (the last may end at the end of the disk).
	Data []Range
}

// StreamWriter takes the bytes of the data ranges, one range after the other.
type StreamWriter interface {
	io.Writer
	// Total is how many bytes the image will have, -1 if only its end tells.
	Total() int64
	// Close writes what is left, and fails if not all data ranges were written.
	Close() error
}

// StreamUnit is implemented together with Streamer: the size of a cluster for
// the given options, to which data ranges are rounded.
type StreamUnit interface {
	StreamUnit(options opts.Dict) (int64, error)
}

// SequentialReader is implemented by drivers that can read images from their start to their end, as from a pipe.
type SequentialReader interface {
	// ReadSequential reads what r needs to know of the image, whose head is as Probe of the driver asks for, and
	// returns the size of the disk in bytes and a reader of its bytes in order. What the reader holds in memory does
	// not depend on the image. It fails where the image is damaged or not in order, at the latest at its end. Both
	// end with ctx, as far as r does.
	ReadSequential(ctx context.Context, r io.Reader) (size int64, disk io.Reader, err error)
}
