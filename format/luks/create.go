package luks

import (
	"context"
	"errors"
	"math"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/luks"
	"github.com/cowl-disk/cowl/internal/cryptio"
)

// Create implements driver.Creator. The payload is not written: it reads as what
// zeroes decrypt to.
func (luksDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	var o createOptions
	if err := createSchema.Decode(req.Options, &o); err != nil {
		return err
	}
	v := o.volume()
	if err := v.Check(); err != nil {
		return failure(err)
	}
	prealloc, err := o.prealloc()
	if err != nil {
		return err
	}
	secret, err := passphrase(req.Env.Objects, o.KeySecret)
	if err != nil {
		return err
	}
	room, err := luks.HeaderSize(v)
	if err != nil {
		return failure(err)
	}
	size := req.Size
	if o.DetachedHeader {
		size = 0
	}
	if size < 0 || size > math.MaxInt64-room-maxSector {
		return driver.Errorf(driver.ErrInvalid, "the requested file size is too large")
	}
	size = o.roundUp(size)
	if err := makeRoom(ctx, req.File, room+size, prealloc); err != nil {
		return err
	}
	v.Reserve = reserve(req.Env.Budget)
	h, key, err := luks.Create(ctx, req.File, v, secret)
	if err != nil {
		return failure(err)
	}
	defer key.Wipe()
	if size > req.Size && !o.DetachedHeader {
		if err := zeroLast(ctx, req.File, h, key, size); err != nil {
			return failure(err)
		}
	}
	return req.File.Flush(ctx)
}

// zeroLast makes the last sector of a disk of size bytes zeroes: a part of it is more than was
// asked for, which nobody is going to write.
func zeroLast(ctx context.Context, file driver.Storage, h *luks.Header, key *luks.Key, size int64) error {
	c, err := h.Cipher(key)
	if err != nil {
		return err
	}
	last := int64(h.SectorSize)
	_, err = cryptio.New(file, c, -h.PayloadOffset).WriteAt(ctx, make([]byte, last), h.PayloadOffset+size-last)
	return err
}

// makeRoom gives a file its size. A device keeps the size it has.
func makeRoom(ctx context.Context, file driver.Storage, size int64, prealloc driver.Prealloc) error {
	if file.Size() >= size {
		return nil
	}
	r, ok := file.(driver.Resizer)
	if !ok {
		return driver.Errorf(driver.ErrUnsupported, "the image has %d bytes and cannot grow to %d", file.Size(), size)
	}
	err := r.Resize(ctx, size, driver.ResizeOptions{Prealloc: prealloc})
	if errors.Is(err, driver.ErrTooLarge) || errors.Is(err, syscall.EFBIG) {
		return driver.Errorf(driver.ErrInvalid, "the requested file size is too large")
	}
	return err
}

// Measure implements driver.Measurer: the file has room for the header and the whole
// disk from the start.
func (luksDriver) Measure(_ context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	var o createOptions
	if err := createSchema.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	v := o.volume()
	if err := v.Check(); err != nil {
		return nil, failure(err)
	}
	if _, err := passphrase(req.Objects, o.KeySecret); err != nil {
		return nil, err
	}
	room, err := luks.HeaderSize(v)
	if err != nil {
		return nil, failure(err)
	}
	size := req.Size
	if o.DetachedHeader {
		size = 0
	}
	if size < 0 || size > math.MaxInt64-room-maxSector {
		return nil, driver.Errorf(driver.ErrInvalid, "the image size is too large for file format 'luks'")
	}
	size = o.roundUp(size)
	return &driver.Measured{Required: room + size, FullyAllocated: room + size}, nil
}
