package qemunbd

import (
	"context"
	"os"

	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// slice shows a range of a device.
type slice struct {
	dev    server.Device
	off, n int64
}

// writableSlice is a slice of a device that can be written.
type writableSlice struct {
	slice
	w server.Writer
}

// newSlice shows n bytes of dev from off on.
func newSlice(dev server.Device, off, n int64) server.Device {
	s := slice{dev, off, n}
	if w, ok := dev.(server.Writer); ok {
		return writableSlice{s, w}
	}
	return s
}

func (s slice) Size() int64 { return s.n }

func (s slice) ReadAt(ctx context.Context, p []byte, off int64) error {
	return s.dev.ReadAt(ctx, p, s.off+off)
}

func (s slice) Limits() wire.BlockSize {
	if l, ok := s.dev.(server.Limiter); ok {
		return l.Limits()
	}
	return wire.BlockSize{Min: 1, Preferred: 4096, Max: wire.MaxPayload}
}

func (s slice) Cache(ctx context.Context, off, n int64) error {
	if c, ok := s.dev.(server.Cacher); ok {
		return c.Cache(ctx, s.off+off, n)
	}
	return wire.ENOTSUP
}

func (s slice) FileRange(ctx context.Context, off, n int64) (*os.File, int64, bool) {
	if r, ok := s.dev.(server.FileRanger); ok {
		return r.FileRange(ctx, s.off+off, n)
	}
	return nil, 0, false
}

func (s slice) Contexts() []string {
	if r, ok := s.dev.(server.StatusReporter); ok {
		return r.Contexts()
	}
	return nil
}

func (s slice) BlockStatus(ctx context.Context, name string, off, n int64, yield func(int64, uint64) bool) error {
	if r, ok := s.dev.(server.StatusReporter); ok {
		return r.BlockStatus(ctx, name, s.off+off, n, yield)
	}
	return wire.EINVAL
}

func (s writableSlice) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	return s.w.WriteAt(ctx, p, s.off+off, fua)
}

func (s writableSlice) Flush(ctx context.Context) error { return s.w.Flush(ctx) }

func (s writableSlice) Trim(ctx context.Context, off, n int64) error {
	if t, ok := s.w.(server.Trimmer); ok {
		return t.Trim(ctx, s.off+off, n)
	}
	return nil
}

func (s writableSlice) WriteZeroes(ctx context.Context, off, n int64, flags server.ZeroFlags) error {
	if z, ok := s.w.(server.ZeroWriter); ok {
		return z.WriteZeroes(ctx, s.off+off, n, flags)
	}
	return wire.ENOTSUP
}
