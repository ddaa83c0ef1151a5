package vdi

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// image is an open image. The mapping is that of package blockmap.
type image struct {
	*blockmap.Disk
	file      driver.Storage
	imageType uint32
	block     int64

	mu  sync.Mutex // guards hdr, and its writing
	hdr *header
}

func open(ctx context.Context, req *driver.OpenRequest) (*image, error) {
	b := make([]byte, headerSize)
	if _, err := req.File.ReadAt(ctx, b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h, err := decodeHeader(b)
	if err != nil {
		return nil, err
	}
	if end := h.table + int64(h.blocks)*4; end > req.File.Size() {
		return nil, driver.Errorf(driver.ErrCorrupt, "the block map ends at %d, the file at %d", end, req.File.Size())
	}
	if h.link != (uuid{}) {
		return nil, unsupported("unsupported VDI image (non-NULL link UUID)")
	}
	if h.parentChange != (uuid{}) {
		return nil, unsupported("unsupported VDI image (non-NULL parent UUID)")
	}
	if h.extra != 0 && req.Access.Write {
		return nil, unsupported("unsupported VDI image (blocks have %d bytes of extra data: it can be read only)", h.extra)
	}
	im := &image{file: req.File, imageType: h.imageType, block: h.block, hdr: h}
	l := im.layout(h)
	l.Writable, l.Sequential = req.Access.Write, req.Sequential
	im.Disk, err = blockmap.New(l, blockmap.Hooks{Linking: im.countBlocks}, req.File, req.Env, h.size)
	if err != nil {
		return nil, err
	}
	return im, nil
}

// layout describes an image with header h.
func (im *image) layout(h *header) blockmap.Layout {
	data, block, extra := h.data, h.block, h.extra
	return blockmap.Layout{
		Noun: "block", Unit: block, Table: h.table, Entries: int64(h.blocks), Width: 4, Order: binary.LittleEndian,
		First: data, Align: block, Limit: data + maxBlocks*block, Reuse: true,
		AbsentZero: true, Recurse: h.imageType == typeStatic,
		Decode: func(raw uint64) blockmap.Entry {
			switch {
			case raw == unallocated:
				return blockmap.Entry{}
			case raw == discarded:
				return blockmap.Entry{State: blockmap.Zero}
			case raw >= maxBlocks:
				return blockmap.Entry{State: blockmap.Bad}
			}
			return blockmap.Entry{State: blockmap.Data, Host: data + int64(raw)*(block+extra) + extra}
		},
		Encode: func(e blockmap.Entry) uint64 {
			switch e.State {
			case blockmap.Data:
				return uint64((e.Host - data) / block)
			case blockmap.Zero:
				return discarded
			}
			return unallocated
		},
	}
}

// countBlocks notes in the header how many blocks there are in the file, up to end.
func (im *image) countBlocks(ctx context.Context, end int64) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	n := uint32(roundUp(end-im.hdr.data, im.hdr.block) / im.hdr.block)
	if n == im.hdr.allocated {
		return nil
	}
	h := *im.hdr
	h.allocated = n
	return im.writeHeader(ctx, &h)
}

// writeHeader writes a header, which is that of the image if that succeeds. mu is
// held.
func (im *image) writeHeader(ctx context.Context, h *header) error {
	if _, err := im.file.WriteAt(ctx, h.encode(), 0); err != nil {
		return err
	}
	im.hdr = h
	return nil
}

// ReadEncoded implements driver.Format: nothing is.
func (im *image) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrUnsupported, "VDI images have no encoded blocks")
}

// Traits implements driver.Node.
func (im *image) Traits() driver.Traits {
	return driver.Traits{ZeroInit: im.imageType != typeStatic || im.file.Traits().ZeroInit}
}

// State implements driver.Stater: the header knows no such marks.
func (*image) State(context.Context) (*driver.State, error) { return &driver.State{}, nil }

// Info implements driver.Describer.
func (im *image) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{ClusterSize: im.block}, nil
}
