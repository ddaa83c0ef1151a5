package parallels

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// image is an open image. The mapping is that of package blockmap.
type image struct {
	*blockmap.Disk
	file    driver.Storage
	cluster int64

	mu  sync.Mutex // guards hdr, and its writing
	hdr header
}

func open(ctx context.Context, req *driver.OpenRequest) (_ *image, err error) {
	b := make([]byte, headerSize)
	if _, err := req.File.ReadAt(ctx, b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h, err := decodeHeader(b, req.File.Size())
	if err != nil {
		return nil, err
	}
	if h.tableEnd() > roundUp(req.File.Size(), sectorSize) {
		return nil, driver.Errorf(driver.ErrCorrupt, "the table ends at %d, the file at %d", h.tableEnd(), req.File.Size())
	}
	if h.extOff != 0 && req.Access.Write && !req.Access.Check {
		req.Env.Warn("Format Extension ignored in RW mode")
	}
	im := &image{file: req.File, cluster: h.cluster(), hdr: *h}
	l := im.layout(h)
	l.Backing = req.BackingGiven
	l.Writable, l.Sequential = req.Access.Write, req.Sequential
	if im.Disk, err = blockmap.New(l, blockmap.Hooks{FirstWrite: im.firstWrite, Closing: im.closing}, req.File, req.Env, int64(h.sectors)*sectorSize); err != nil {
		return nil, err
	}
	if req.Access.Write && !req.Access.Check {
		if err := im.repairOnOpen(ctx, req.Env.Report); err != nil {
			im.Release()
			return nil, driver.Errorf(driver.ErrCorrupt, "could not repair corrupted image: %w", err)
		}
	}
	return im, nil
}

// layout describes an image with header h.
func (im *image) layout(h *header) blockmap.Layout {
	unit, start := h.unit(), h.dataStart
	l := blockmap.Layout{
		Noun: "cluster", Unit: h.cluster(), Table: headerSize, Entries: int64(h.entries), Width: 4, Order: binary.LittleEndian,
		First: roundUp(start, unit), Lowest: roundUp(h.tableEnd(), sectorSize), Align: h.cluster(), Limit: math.MaxUint32 * unit, FreeUnits: true, Reuse: true, WholeUnits: true,
		Decode: func(raw uint64) blockmap.Entry {
			if raw == 0 {
				return blockmap.Entry{}
			}
			return blockmap.Entry{State: blockmap.Data, Host: int64(raw) * unit}
		},
		Encode: func(e blockmap.Entry) uint64 {
			if e.State == blockmap.Data {
				return uint64(e.Host / unit)
			}
			return 0
		},
	}
	if !h.ext {
		l.Grain = sectorSize
	}
	if h.extOff != 0 {
		// Where the clusters of the extension lie is not looked at: all there is stays.
		l.AtEnd, l.Reuse = true, false
	}
	return l
}

// writeHeader writes a header, which is that of the image if that succeeds. mu is
// held.
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

// firstWrite marks the image as in use.
func (im *image) firstWrite(ctx context.Context) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	h := im.hdr
	h.inUse = inUseMark
	h.dataOff = uint32(h.dataStart / sectorSize)
	if !h.ext && im.hdr.dataOff == 0 {
		h.dataOff = 0
	}
	if h == im.hdr {
		return nil
	}
	return im.writeHeader(ctx, h)
}

// closing takes the mark back.
func (im *image) closing(ctx context.Context) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	h := im.hdr
	h.inUse = 0
	return im.writeHeader(ctx, h)
}

// ReadEncoded implements driver.Format: nothing is.
func (im *image) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrUnsupported, "parallels images have no encoded clusters")
}

// Traits implements driver.Node.
func (im *image) Traits() driver.Traits { return driver.Traits{ZeroInit: true} }
