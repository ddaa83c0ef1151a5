// Package safeio reads amounts that an untrusted source names. Memory is
// reserved as bytes arrive, not as they are promised: a header that claims a
// terabyte in a file of a kilobyte costs one small buffer.
package safeio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
)

// firstChunk is reserved at once; every further chunk doubles what is there.
const firstChunk = 1 << 20

// ErrSize says that a size is negative or does not fit the address space.
var ErrSize = errors.New("impossible size")

// ReaderAt is what disk storage offers for reading.
type ReaderAt interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
}

// ReadAt reads n bytes at off. Fewer are io.ErrUnexpectedEOF.
func ReadAt(ctx context.Context, r ReaderAt, off, n int64) ([]byte, error) {
	if off < 0 || off > math.MaxInt64-max(n, 0) {
		return nil, fmt.Errorf("%w: %d bytes at %d", ErrSize, n, off)
	}
	return grow(n, func(p []byte, done int64) error {
		m, err := r.ReadAt(ctx, p, off+done)
		if m == len(p) {
			return nil
		}
		if err == nil || err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		return err
	})
}

func grow(n int64, read func(p []byte, done int64) error) ([]byte, error) {
	if n < 0 || n > math.MaxInt {
		return nil, fmt.Errorf("%w: %d bytes", ErrSize, n)
	}
	buf := make([]byte, 0, min(n, firstChunk))
	for int64(len(buf)) < n {
		if len(buf) == cap(buf) {
			larger := make([]byte, len(buf), min(n, 2*int64(cap(buf))))
			copy(larger, buf)
			buf = larger
		}
		done := len(buf)
		if err := read(buf[done:cap(buf)], int64(done)); err != nil {
			return nil, err
		}
		buf = buf[:cap(buf)]
	}
	return buf, nil
}
