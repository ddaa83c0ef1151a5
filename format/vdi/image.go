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
	link      uuid // of the parent

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
	if h.parentChange != (uuid{}) && h.link == (uuid{}) {
		return nil, unsupported("unsupported VDI image (non-NULL parent UUID)")
	}
	if h.link != (uuid{}) && h.imageType != typeDiff && h.imageType != typeUndo {
		return nil, unsupported("unsupported VDI image (non-NULL link UUID)")
	}
	if h.extra != 0 && req.Access.Write {
		return nil, unsupported("unsupported VDI image (blocks have %d bytes of extra data: it can be read only)", h.extra)
	}
	im := &image{file: req.File, imageType: h.imageType, block: h.block, link: h.link, hdr: h}
	l := im.layout(h)
	l.Backing = im.parent() || req.BackingGiven
	l.ZeroState = l.Backing // else what is absent is zeroes
	l.Writable, l.Sequential = req.Access.Write, req.Sequential
	im.Disk, err = blockmap.New(l, blockmap.Hooks{FirstWrite: im.touch, Linking: im.countBlocks}, req.File, req.Env, h.size)
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

// touch gives the contents another identifier, by which an image on top of this one finds
// out that they were changed.
func (im *image) touch(ctx context.Context) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	h := *im.hdr
	h.snap = newUUID()
	return im.writeHeader(ctx, &h)
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

// parent says whether the image is on top of another one.
func (im *image) parent() bool { return im.link != uuid{} }

// State implements driver.Stater. VirtualBox calls snapshots by their identifiers; the name
// of a first image is not known.
func (im *image) State(context.Context) (*driver.State, error) {
	s := &driver.State{}
	if im.parent() {
		s.Backing = &driver.BackingRef{Filename: im.link.String() + ending, Format: "vdi", Ending: ending}
	}
	return s, nil
}

// ending is that of the names of images.
const ending = ".vdi"

// identity returns the identifiers of the image and of what it holds.
func (im *image) identity() (id, contents uuid) {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.hdr.image, im.hdr.snap
}

// IsParent implements driver.ParentFinder.
func (im *image) IsParent(head []byte) bool {
	if len(head) < headerSize || binary.LittleEndian.Uint32(head[offSignature:]) != signature {
		return false
	}
	return uuid(head[offImageUUID:offImageUUID+16]) == im.link
}

// CheckParent implements driver.ParentChecker: the parent must be the one that the image
// names, and not have been changed since.
func (im *image) CheckParent(_ context.Context, parent driver.Node) error {
	p, ok := parent.(*image)
	if !ok || !im.parent() {
		return nil // somebody chose another one, and knows why
	}
	id, change := p.identity()
	im.mu.Lock()
	want := im.hdr.parentChange
	im.mu.Unlock()
	switch {
	case id != im.link:
		return driver.Errorf(driver.ErrCorrupt, "the image is %s, and the parent of this one is %s", id, im.link)
	case want != uuid{} && change != want:
		return driver.Errorf(driver.ErrCorrupt, "the parent has been modified: its state is %s, and was %s", change, want)
	}
	return nil
}

// Info implements driver.Describer.
func (im *image) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{ClusterSize: im.block}, nil
}
