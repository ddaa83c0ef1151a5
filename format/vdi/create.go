package vdi

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"path/filepath"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/opts"
)

// newUUID returns a random UUID, version 4 of RFC 9562, with the fields in the byte
// order of the header.
func newUUID() (id uuid) {
	rand.Read(id[:]) // never fails
	id[7] = id[7]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// plan returns the header of a new image for options and a size, and the name of its parent.
func plan(d opts.Dict, size int64) (*header, string, error) {
	var o createOptions
	if err := desc.CreateOptions.Decode(d, &o); err != nil {
		return nil, "", err
	}
	switch {
	case o.BackingFormat != "" && o.BackingFormat != "vdi":
		return nil, "", driver.Errorf(driver.ErrInvalid, "the parent of a vdi image must be one, too")
	case o.BackingFile != "" && o.Static:
		return nil, "", driver.Errorf(driver.ErrInvalid, "a static image cannot have a parent")
	}
	size = roundUp(max(size, o.Size), sectorSize)
	if size > maxSize || size < 0 {
		return nil, "", unsupported("unsupported VDI image size (size is 0x%x, max supported is 0x%x)", uint64(size), maxSize)
	}
	h := newHeader()
	h.size = size
	h.blocks = uint32(roundUp(size, h.block) / h.block)
	h.data = roundUp(h.table+int64(h.blocks)*4, h.block)
	h.image, h.snap = newUUID(), newUUID()
	if o.Static {
		h.imageType, h.allocated = typeStatic, h.blocks
	}
	return h, o.BackingFile, nil
}

// findParent notes in h which image the parent is. Its name is not stored, so that it must
// be where it is looked for: see driver.BackingRef.Ending.
func (h *header) findParent(ctx context.Context, req *driver.CreateRequest, name string) error {
	if req.OpenImage == nil {
		return unsupported("a parent cannot be opened here")
	}
	dir := filepath.Dir(strings.TrimPrefix(req.Filename, "file:"))
	full := name
	if !filepath.IsAbs(name) {
		full = filepath.Join(dir, name)
	}
	if at := filepath.Dir(full); !strings.EqualFold(filepath.Ext(name), ending) || at != dir && at != filepath.Join(dir, "..") {
		return driver.Errorf(driver.ErrInvalid, "the parent '%s' would not be found: a vdi image knows it by its identifier, and it must lie in the same folder or the one above, with the ending '%s'", name, ending)
	}
	parent, done, err := req.OpenImage(ctx, name)
	if err != nil {
		return err
	}
	defer done()
	p, ok := parent.Node.(*image)
	if !ok {
		return driver.Errorf(driver.ErrInvalid, "the parent of a vdi image must be one, too, and not %s", parent.Format)
	}
	h.imageType = typeDiff
	h.link, h.parentChange = p.identity()
	return nil
}

// end returns where the last block of the file ends.
func (h *header) end() int64 { return h.data + int64(h.allocated)*h.block }

// Create implements driver.Creator.
func (vdiDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	h, parent, err := plan(req.Options, req.Size)
	if err != nil {
		return err
	}
	if parent != "" {
		if err := h.findParent(ctx, req, parent); err != nil {
			return err
		}
	}
	if err := writeTable(ctx, req.File, h); err != nil {
		return err
	}
	// The file reaches to where the blocks begin.
	if end := h.end(); end > req.File.Size() {
		if err := grow(ctx, req.File, end); err != nil {
			return err
		}
	}
	if _, err := req.File.WriteAt(ctx, h.encode(), 0); err != nil {
		return err
	}
	return req.File.Flush(ctx)
}

// grow makes a file longer, with zeroes.
func grow(ctx context.Context, file driver.Storage, end int64) error {
	if r, ok := file.(driver.Resizer); ok {
		return r.Resize(ctx, end, driver.ResizeOptions{})
	}
	_, err := file.WriteAt(ctx, []byte{0}, end-1)
	return err
}

// writeTable writes the table of a new image.
func writeTable(ctx context.Context, file driver.Storage, h *header) error {
	const chunk = 1 << 20
	buf := bufpool.Get(chunk)
	defer bufpool.Put(buf)
	for i := range buf {
		buf[i] = 0xff
	}
	for n := int64(0); n < int64(h.blocks); {
		b := buf[:min(chunk, (int64(h.blocks)-n)*4)]
		if h.imageType == typeStatic {
			for i := 0; i < len(b); i += 4 {
				binary.LittleEndian.PutUint32(b[i:], uint32(n)+uint32(i/4))
			}
		}
		if _, err := file.WriteAt(ctx, b, h.table+n*4); err != nil {
			return err
		}
		n += int64(len(b)) / 4
	}
	return nil
}

// Measure implements driver.Measurer.
func (vdiDriver) Measure(ctx context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	h, _, err := plan(req.Options, req.Size)
	if err != nil {
		return nil, err
	}
	full := h.data + int64(h.blocks)*h.block
	if h.imageType == typeStatic {
		return &driver.Measured{Required: full, FullyAllocated: full}, nil
	}
	data, err := blockmap.DataUnits(ctx, req, h.block)
	if err != nil {
		return nil, err
	}
	return &driver.Measured{Required: h.data + data, FullyAllocated: full}, nil
}
