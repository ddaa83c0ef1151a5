package qed

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
	file    driver.Storage
	events  driver.Events
	cluster int64

	mu      sync.Mutex // guards what follows, and the writing of the header
	hdr     header
	backing string
	broken  bool // the need-check bit stays
}

func open(ctx context.Context, req *driver.OpenRequest) (_ *image, err error) {
	b := make([]byte, headerSize)
	if _, err := req.File.ReadAt(ctx, b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if string(b[:len(magic)]) != magic {
		return nil, driver.Errorf(driver.ErrFormat, "image not in QED format")
	}
	h := decodeHeader(b)
	if err := h.check(req.File.Size()); err != nil {
		return nil, err
	}
	im := &image{file: req.File, events: driver.EventsOf(req.File), cluster: h.cluster, hdr: *h}
	if h.features&featureBacking != 0 {
		name := make([]byte, h.backLen)
		if _, err := req.File.ReadAt(ctx, name, int64(h.backingOff)); err != nil {
			return nil, driver.Errorf(driver.ErrCorrupt, "failed to read backing filename: %w", err)
		}
		im.backing = string(name)
	}
	l := im.layout(h)
	l.Backing = im.backing != "" || req.BackingGiven
	l.Writable, l.Sequential = req.Access.Write, req.Sequential
	if im.Disk, err = blockmap.New(l, blockmap.Hooks{FirstWrite: im.firstWrite, Closing: im.closing}, req.File, req.Env, int64(h.size)); err != nil {
		return nil, err
	}
	if l.Writable && h.autoclear != 0 {
		// Section "Header": features that we do not know, and so do not keep up.
		im.hdr.autoclear = 0
		err = im.writeHeader(ctx, im.hdr)
	}
	if err == nil && l.Writable && !req.Access.Check && h.features&featureCheck != 0 {
		err = im.repairOnOpen(ctx)
	}
	if err != nil {
		im.Release()
		return nil, err
	}
	return im, nil
}

// layout describes an image (sections "Tables" and "Data clusters").
func (im *image) layout(h *header) blockmap.Layout {
	cluster := uint64(h.cluster)
	valid := func(off uint64) bool { return off%cluster == 0 && off < 1<<61 }
	return blockmap.Layout{
		Noun: "cluster", Unit: h.cluster, Width: 8, Order: binary.LittleEndian,
		First: h.headerBytes(), Align: h.cluster, Reserved: []driver.Range{{Offset: int64(h.l1), Length: h.tableBytes()}},
		ZeroState: true,
		Dir: &blockmap.Directory{Off: int64(h.l1), Entries: h.entries(), Width: 8, TableBytes: h.tableBytes(), Align: h.cluster,
			Decode: func(raw uint64) (int64, bool) {
				return int64(raw), raw == 0 || valid(raw) && raw >= uint64(h.headerBytes())
			},
			Encode: func(off int64) uint64 { return uint64(off) },
		},
		Decode: func(raw uint64) blockmap.Entry {
			switch {
			case raw == 0:
				return blockmap.Entry{}
			case raw == 1:
				return blockmap.Entry{State: blockmap.Zero}
			case !valid(raw):
				return blockmap.Entry{State: blockmap.Bad}
			}
			return blockmap.Entry{State: blockmap.Data, Host: int64(raw)}
		},
		Encode: func(e blockmap.Entry) uint64 {
			switch e.State {
			case blockmap.Data:
				return uint64(e.Host)
			case blockmap.Zero:
				return 1
			}
			return 0
		},
	}
}

// writeHeader writes a header, which is that of the image if that succeeds. mu is
// held, or nobody else is there.
func (im *image) writeHeader(ctx context.Context, h header) error {
	if _, err := im.file.WriteAt(ctx, h.encode(), 0); err != nil {
		return err
	}
	if err := im.file.Flush(ctx); err != nil {
		return err
	}
	im.hdr = h
	return nil
}

// firstWrite sets the need-check bit (section "Consistency checking").
func (im *image) firstWrite(ctx context.Context) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	h := im.hdr
	h.features |= featureCheck
	if h.features == im.hdr.features {
		return nil
	}
	return im.writeHeader(ctx, h)
}

// closing clears the need-check bit, unless the image needs a check.
func (im *image) closing(ctx context.Context) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	h := im.hdr
	h.features &^= featureCheck
	if im.broken || h.features == im.hdr.features {
		return nil
	}
	return im.writeHeader(ctx, h)
}

// Allocate implements driver.Allocator.
func (im *image) Allocate(ctx context.Context, off, n int64) (driver.WriteTarget, error) {
	t, err := im.Disk.Allocate(ctx, off, n)
	if err == nil {
		im.events.Raise("write_aio")
	}
	return t, err
}

// ReadEncoded implements driver.Format: nothing is.
func (im *image) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrUnsupported, "QED images have no encoded clusters")
}

// Traits implements driver.Node.
func (im *image) Traits() driver.Traits { return driver.Traits{ZeroInit: true} }

// State implements driver.Stater.
func (im *image) State(context.Context) (*driver.State, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	s := &driver.State{Dirty: im.hdr.features&featureCheck != 0}
	if im.backing != "" {
		s.Backing = &driver.BackingRef{Filename: im.backing}
		if im.hdr.features&featureNoProbe != 0 {
			s.Backing.Format = "raw"
		}
	}
	return s, nil
}

// Info implements driver.Describer.
func (im *image) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{ClusterSize: im.cluster}, nil
}

// ChangeBacking implements driver.BackingChanger. The name is written beside the one
// that is in force, and takes effect with the header.
func (im *image) ChangeBacking(ctx context.Context, ref driver.BackingRef) error {
	if !im.Writable() {
		return driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	if err := im.Flush(ctx); err != nil {
		return err
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	h := im.hdr
	h.features &^= featureBacking | featureNoProbe
	h.backingOff, h.backLen = 0, 0
	if n := int64(len(ref.Filename)); n > 0 {
		off := int64(headerSize)
		if im.backing != "" && int64(im.hdr.backingOff) < off+n {
			off = int64(im.hdr.backingOff) + int64(im.hdr.backLen)
		}
		if off+n > h.headerBytes() && im.backing != "" && headerSize+n <= int64(im.hdr.backingOff) {
			off = headerSize
		}
		if n > maxBackingName || off+n > h.headerBytes() {
			return driver.Errorf(driver.ErrInvalid, "the name of the backing file has %d bytes: there is no room for it in the header", n)
		}
		h.features |= featureBacking
		if ref.Format == "raw" {
			h.features |= featureNoProbe
		}
		h.backingOff, h.backLen = uint32(off), uint32(n)
		if _, err := im.file.WriteAt(ctx, []byte(ref.Filename), off); err != nil {
			return err
		}
		if err := im.file.Flush(ctx); err != nil {
			return err
		}
	}
	if err := im.writeHeader(ctx, h); err != nil {
		return err
	}
	im.backing = ref.Filename
	return nil
}

// Resize implements driver.Resizer. Images only grow: the tables have room for the
// largest disk from the start.
func (im *image) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff {
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", opt.Prealloc)
	}
	im.mu.Lock()
	h := im.hdr
	im.mu.Unlock()
	if !validSize(uint64(size), h.cluster, h.table) {
		return driver.Errorf(driver.ErrInvalid, "invalid image size specified")
	}
	if size < im.Size() {
		return driver.Errorf(driver.ErrUnsupported, "shrinking images is currently not supported")
	}
	if err := im.Flush(ctx); err != nil {
		return err
	}
	im.mu.Lock()
	h = im.hdr
	h.size = uint64(size)
	err := im.writeHeader(ctx, h)
	im.mu.Unlock()
	if err != nil {
		return err
	}
	return im.Resized(im.layout(&h), size)
}
