package qcow

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/internal/cryptio"
	"github.com/cowl-disk/cowl/internal/deflate"
	"github.com/cowl-disk/cowl/internal/inflate"
)

// image is an open image. The mapping is that of package blockmap.
type image struct {
	*blockmap.Disk
	file    driver.Storage
	events  driver.Events
	hdr     *header
	backing string
	crypto  *cryptio.Storage // nil: not encrypted, or opened without the key
	noKey   bool             // encrypted, and opened without the key

	encoders sync.Pool // of *deflate.Encoder
	inflate  inflate.Decoder
}

func open(ctx context.Context, req *driver.OpenRequest, o *openOptions) (*image, error) {
	b := make([]byte, headerSize)
	if _, err := req.File.ReadAt(ctx, b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h, err := decodeHeader(b)
	if err != nil {
		return nil, err
	}
	im := &image{file: req.File, events: driver.EventsOf(req.File), hdr: h, encoders: sync.Pool{New: func() any { return &deflate.Encoder{Hasty: true} }}}
	switch {
	case h.crypt == cryptNone && o.Format != "":
		return nil, invalid("no encryption in image header, but options specified format '%s'", o.Format)
	case h.crypt == cryptAES && o.Format != "" && o.Format != "aes":
		return nil, invalid("header reported 'aes' encryption format but options specify '%s'", o.Format)
	case h.crypt == cryptAES && req.Access.NoIO:
		im.noKey = true
	case h.crypt == cryptAES:
		c, err := newCipher(req.Env.Objects, o.KeySecret)
		if err != nil {
			return nil, err
		}
		im.crypto = cryptio.New(req.File, c, 0)
	}
	if h.backingOff != 0 {
		name := make([]byte, h.backingLen)
		if h.backingOff > uint64(max(0, req.File.Size()-int64(h.backingLen))) {
			return nil, driver.Errorf(driver.ErrCorrupt, "the name of the backing file cannot lie at %d", h.backingOff)
		}
		if _, err := req.File.ReadAt(ctx, name, int64(h.backingOff)); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		im.backing = string(name)
	}
	l := im.layout(h)
	l.Backing = im.backing != "" || req.BackingGiven
	l.Writable, l.Sequential = req.Access.Write, req.Sequential
	im.Disk, err = blockmap.New(l, blockmap.Hooks{}, req.File, req.Env, int64(h.size/sectorSize*sectorSize))
	if err != nil {
		return nil, err
	}
	return im, nil
}

// layout describes an image.
func (im *image) layout(h *header) blockmap.Layout {
	mask, sizeShift := h.offsetMask(), 63-h.clusterBits
	return blockmap.Layout{
		Noun: "cluster", Unit: h.cluster, Width: 8, Order: binary.BigEndian,
		Lowest: headerSize, Align: h.cluster, Limit: int64(min(mask, 1<<60)), Grain: sectorSize,
		Reserved: []driver.Range{{Length: h.l1End()}, {Offset: int64(h.backingOff), Length: int64(h.backingLen)}},
		Dir: &blockmap.Directory{Off: int64(h.l1), Entries: h.l1Size, Width: 8, TableBytes: h.tables, Align: h.cluster,
			Decode: func(raw uint64) (int64, bool) { return int64(raw), raw == 0 || raw >= headerSize && raw < 1<<61 },
			Encode: func(off int64) uint64 { return uint64(off) },
		},
		Decode: func(raw uint64) blockmap.Entry {
			switch {
			case raw == 0:
				return blockmap.Entry{}
			case raw&flagCompressed != 0:
				return blockmap.Entry{State: blockmap.Encoded, Host: int64(raw & mask), Length: int64(raw &^ flagCompressed >> sizeShift)}
			case raw >= 1<<61:
				return blockmap.Entry{State: blockmap.Bad}
			}
			return blockmap.Entry{State: blockmap.Data, Host: int64(raw)}
		},
		Encode: func(e blockmap.Entry) uint64 {
			switch e.State {
			case blockmap.Data:
				return uint64(e.Host)
			case blockmap.Encoded:
				return flagCompressed | uint64(e.Length)<<sizeShift | uint64(e.Host)
			}
			return 0
		},
	}
}

// Traits implements driver.Node.
func (im *image) Traits() driver.Traits {
	encrypted := im.hdr.crypt != cryptNone
	return driver.Traits{ZeroInit: true, Encrypted: encrypted, NoCompression: encrypted}
}

// State implements driver.Stater: the header knows no marks.
func (im *image) State(context.Context) (*driver.State, error) {
	s := &driver.State{}
	if im.backing != "" {
		s.Backing = &driver.BackingRef{Filename: im.backing}
	}
	return s, nil
}

// Info implements driver.Describer.
func (im *image) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{ClusterSize: im.hdr.cluster}, nil
}

func (im *image) needKey() error {
	if im.noKey {
		return invalid("parameter 'encrypt.key-secret' is required for cipher")
	}
	return nil
}

// Map implements driver.Format. Encrypted data lie in a child that decrypts, in which
// sectors have the numbers that the guest gives them.
func (im *image) Map(ctx context.Context, off, n int64) (driver.Extent, error) {
	x, err := im.Disk.Map(ctx, off, n)
	if err == nil && x.Kind == driver.ExtentData && im.hdr.crypt != cryptNone {
		if err := im.needKey(); err != nil {
			return driver.Extent{}, err
		}
		x.Child = im.crypto.Shift(off - x.HostOffset)
	}
	return x, err
}

// Allocate implements driver.Allocator.
func (im *image) Allocate(ctx context.Context, off, n int64) (driver.WriteTarget, error) {
	if err := im.needKey(); err != nil {
		return driver.WriteTarget{}, err
	}
	t, err := im.Disk.Allocate(ctx, off, n)
	if err != nil {
		return t, err
	}
	im.events.Raise("write_aio")
	if im.crypto != nil {
		t.Child, t.ZeroFilled = im.crypto.Shift(off-t.HostOffset), false
	}
	return t, nil
}

// WriteZeroes implements driver.ZeroWriter. What lies encrypted cannot be zeroed in the
// file.
func (im *image) WriteZeroes(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	if im.hdr.crypt != cryptNone {
		return driver.ErrUnsupported
	}
	return im.Disk.WriteZeroes(ctx, off, n, flags)
}

// Discard implements driver.Discarder.
func (im *image) Discard(ctx context.Context, off, n int64) error {
	if im.hdr.crypt != cryptNone {
		return driver.ErrUnsupported
	}
	return im.Disk.Discard(ctx, off, n)
}

// MakeEmpty implements driver.Emptier: no table is left, and the file ends behind the L1
// table.
func (im *image) MakeEmpty(ctx context.Context) error {
	return im.Empty(ctx)
}
