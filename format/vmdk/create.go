package vmdk

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
)

// Create implements driver.Creator.
func (vmdkDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	p, err := newPlan(req.Options, req.Size)
	if err != nil {
		return err
	}
	if p.BackingFile != "" {
		if p.parentCID, err = parentID(ctx, req, p.BackingFile); err != nil {
			return err
		}
	}
	p.cid = newCID()
	if p.split || p.flat {
		return p.createExtents(ctx, req)
	}
	name := baseName(req.Filename)
	kind := []extentLine{{access: accessRW, sectors: p.size / sectorSize, kind: extentSparse, name: name}}
	text := p.text(kind)
	if len(text) > descSectors*sectorSize {
		return invalid("the names and versions given are too long for the descriptor")
	}
	if p.Subformat == streamOptimized {
		return p.createStream(ctx, req.File, text)
	}
	if err := p.createSparse(ctx, req.File, p.size); err != nil {
		return err
	}
	if _, err := req.File.WriteAt(ctx, []byte(text), sectorSize); err != nil {
		return err
	}
	return req.File.Flush(ctx)
}

// newCID returns a random content ID.
func newCID() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return cidLike(noParent, 8, le.Uint32(b[:]))
}

// parentID opens the parent and returns its content ID.
func parentID(ctx context.Context, req *driver.CreateRequest, name string) (uint32, error) {
	if req.OpenImage == nil {
		return 0, driver.Errorf(driver.ErrUnsupported, "a parent cannot be opened here")
	}
	parent, done, err := req.OpenImage(ctx, name)
	if err != nil {
		return 0, err
	}
	defer done()
	p, ok := parent.Node.(identified)
	if !ok {
		return 0, invalid("invalid backing file format: %s. Must be vmdk", parent.Format)
	}
	return p.CID(), nil
}

func baseName(name string) string { return name[strings.LastIndexAny(name, `/\:`)+1:] }

// createExtents makes the files of the extents and then the descriptor.
func (p *plan) createExtents(ctx context.Context, req *driver.CreateRequest) error {
	if req.CreateChild == nil {
		return driver.Errorf(driver.ErrUnsupported, "files of extents cannot be made here")
	}
	base, ext := baseName(req.Filename), ""
	if i := strings.LastIndexByte(base, '.'); i >= 0 {
		base, ext = base[:i], base[i:]
	}
	part := p.size
	if p.split {
		part = splitSize
	}
	var lines []extentLine
	for done := int64(0); done < p.size; done += part {
		size := min(part, p.size-done)
		x := extentLine{access: accessRW, sectors: size / sectorSize, kind: extentFlat}
		switch {
		case !p.split:
			x.name = base + "-flat" + ext
		case p.flat:
			x.name = fmt.Sprintf("%s-f%03d%s", base, len(lines)+1, ext)
		default:
			x.name, x.kind = fmt.Sprintf("%s-s%03d%s", base, len(lines)+1, ext), extentSparse
		}
		if err := p.createExtent(ctx, req, x.name, size); err != nil {
			return err
		}
		lines = append(lines, x)
	}
	if _, err := req.File.WriteAt(ctx, []byte(p.text(lines)), 0); err != nil {
		return err
	}
	return req.File.Flush(ctx)
}

// closer is a file that CreateChild made.
type closer interface{ Close(context.Context) error }

func (p *plan) createExtent(ctx context.Context, req *driver.CreateRequest, name string, size int64) (err error) {
	length := size
	if !p.flat {
		length = 0
	}
	file, err := req.CreateChild(ctx, name, length)
	if err != nil {
		return err
	}
	defer func() {
		if e := file.(closer).Close(context.WithoutCancel(ctx)); err == nil {
			err = e
		}
	}()
	if p.flat {
		return nil
	}
	if err := p.createSparse(ctx, file, size); err != nil {
		return err
	}
	return file.Flush(ctx)
}

// createSparse lays out a sparse extent of size bytes: the header, the directories,
// and holes for the tables.
func (p *plan) createSparse(ctx context.Context, file driver.Storage, size int64) error {
	h := newHeader(size, p)
	end := int64(h.overhead) * sectorSize
	if r, ok := file.(driver.Resizer); ok {
		if err := r.Resize(ctx, end, driver.ResizeOptions{}); err != nil {
			return err
		}
	} else if file.Size() < end {
		return driver.Errorf(driver.ErrUnsupported, "the file has %d bytes, the tables end at %d", file.Size(), end)
	}
	for _, dir := range []uint64{h.redundant, h.dir} {
		if err := writeDirectory(ctx, file, h, dir); err != nil {
			return err
		}
	}
	// The header comes last: what was cut short is no image.
	_, err := file.WriteAt(ctx, h.encode(), 0)
	return err
}

// directoryPiece is how many entries of a directory are written at once.
const directoryPiece = 64 << 10

// writeDirectory writes the directory at sector dir, whose tables follow it.
func writeDirectory(ctx context.Context, file driver.Storage, h *sparseHeader, dir uint64) error {
	tables, sectors := h.layout()
	b := make([]byte, 0, 4*directoryPiece)
	for i := uint64(0); i < tables; {
		at := int64(dir)*sectorSize + 4*int64(i)
		for b = b[:0]; i < tables && len(b) < cap(b); i++ {
			b = le.AppendUint32(b, uint32(dir+sectors+i*tableSectors))
		}
		if _, err := file.WriteAt(ctx, b, at); err != nil {
			return err
		}
	}
	return nil
}
