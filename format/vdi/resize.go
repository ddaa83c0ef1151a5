package vdi

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// Resize implements driver.Resizer. The header takes effect with one write: until
// then the image is what it was.
func (im *image) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff {
		return unsupported("unsupported preallocation mode '%s'", opt.Prealloc)
	}
	im.mu.Lock()
	h := *im.hdr
	im.mu.Unlock()
	h.size = roundUp(size, sectorSize)
	if h.size < 0 || h.size > maxBlocks*h.block {
		return unsupported("unsupported VDI image size (size is 0x%x, max supported is 0x%x)", uint64(size), maxBlocks*h.block)
	}
	blocks := uint32(roundUp(h.size, h.block) / h.block)
	if h.size < im.Size() {
		return im.shrink(ctx, &h, blocks)
	}
	return im.grow(ctx, &h, blocks)
}

// shrink gives up the blocks behind the new end and moves the last ones in the file
// to their places.
func (im *image) shrink(ctx context.Context, h *header, blocks uint32) error {
	if err := im.zeroTail(ctx, h.size); err != nil {
		return err
	}
	if err := im.Truncate(ctx, h.size); err != nil {
		return err
	}
	h.blocks = blocks
	im.mu.Lock()
	h.allocated = im.hdr.allocated // tables were written meanwhile
	im.mu.Unlock()
	if err := im.switchTo(ctx, h); err != nil {
		return err
	}
	return im.Compact(ctx)
}

// zeroTail zeroes what a block has behind the end of a disk of size bytes, so that it
// does not show when the disk grows.
func (im *image) zeroTail(ctx context.Context, size int64) error {
	if end := min(roundUp(size, im.block), im.Size()); end > size {
		return im.ZeroData(ctx, size, end-size)
	}
	return nil
}

// grow makes the table longer, where it is if there is room for it before the first
// block, else in the place of the first blocks, which move to the end of the file.
func (im *image) grow(ctx context.Context, h *header, blocks uint32) error {
	if err := im.Flush(ctx); err != nil {
		return err
	}
	old := h.blocks
	h.blocks = max(old, blocks)
	moved := int64(0) // blocks
	from := h.table
	if need := h.table + int64(h.blocks)*4; need > h.data {
		moved = roundUp(int64(h.blocks)*4, h.block) / h.block
		if err := im.Vacate(ctx, h.data+moved*h.block); err != nil {
			return err
		}
		h.table, h.data = roundUp(h.data, sectorSize), h.data+moved*h.block
		if h.data > 0xffffffff {
			return unsupported("unsupported VDI image: the block map would end behind the first 4 GiB of the file")
		}
	}
	im.mu.Lock()
	h.allocated = uint32(int64(im.hdr.allocated) - moved)
	if int64(im.hdr.allocated) < moved {
		h.allocated = 0
	}
	im.mu.Unlock()
	next := h.allocated
	if h.imageType == typeStatic {
		h.allocated += h.blocks - old
		if end := h.end(); end > im.file.Size() {
			if err := grow(ctx, im.file, end); err != nil {
				return err
			}
		}
	}
	if err := im.copyTable(ctx, h, from, old, uint32(moved), next); err != nil {
		return err
	}
	return im.switchTo(ctx, h)
}

// copyTable writes the table that h describes: the first n entries are those at from,
// with numbers that are less by moved, the others new: of a static image blocks from
// number next on.
func (im *image) copyTable(ctx context.Context, h *header, from int64, n, moved, next uint32) error {
	const chunk = 1 << 20
	buf := bufpool.Get(chunk)
	defer bufpool.Put(buf)
	le := binary.LittleEndian
	start := uint32(0)
	if from == h.table {
		start = n // those are there
	}
	for i := start; i < h.blocks; {
		b := buf[:min(chunk, int64(h.blocks-i)*4)]
		if i < n {
			b = b[:min(int64(len(b)), int64(n-i)*4)]
			if _, err := im.file.ReadAt(ctx, b, from+int64(i)*4); err != nil {
				return err
			}
		}
		for j := 0; j < len(b); j += 4 {
			v := uint32(unallocated)
			if i < n {
				if v = le.Uint32(b[j:]); v < discarded {
					v -= moved
				}
			} else if h.imageType == typeStatic {
				v, next = next, next+1
			}
			le.PutUint32(b[j:], v)
			i++
			if i == n {
				b = b[:j+4]
			}
		}
		if _, err := im.file.WriteAt(ctx, b, h.table+int64(i)*4-int64(len(b))); err != nil {
			return err
		}
	}
	return im.file.Flush(ctx)
}

// switchTo makes a header that of the image.
func (im *image) switchTo(ctx context.Context, h *header) error {
	if err := im.file.Flush(ctx); err != nil {
		return err
	}
	im.mu.Lock()
	err := im.writeHeader(ctx, h)
	im.mu.Unlock()
	if err == nil {
		err = im.file.Flush(ctx)
	}
	if err != nil {
		return err
	}
	return im.Resized(im.layout(h), h.size)
}

var _ driver.Resizer = (*image)(nil)
