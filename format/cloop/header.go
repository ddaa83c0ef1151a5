package cloop

import (
	"context"
	"encoding/binary"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

const (
	sectorSize = 512
	preamble   = 128          // bytes of the script
	tableStart = preamble + 8 // where the offsets begin
	entrySize  = 8

	// Limits, which QEMU has too.
	maxBlock   = 64 << 20
	maxEncoded = 2 * maxBlock // of a block that compressed badly
	maxTable   = 512 << 20    // bytes of offsets
	maxBlocks  = (1<<32 - 2) / entrySize
)

// header is what an image says of its blocks.
type header struct {
	blockSize int64 // bytes
	blocks    int64
}

// decodeHeader reads the eight bytes behind the script.
func decodeHeader(b []byte) (header, error) {
	h := header{blockSize: int64(binary.BigEndian.Uint32(b)), blocks: int64(binary.BigEndian.Uint32(b[4:]))}
	switch {
	case h.blockSize%sectorSize != 0:
		return h, driver.Errorf(driver.ErrCorrupt, "block_size %d must be a multiple of %d", h.blockSize, sectorSize)
	case h.blockSize == 0:
		return h, driver.Errorf(driver.ErrCorrupt, "block_size cannot be zero")
	case h.blockSize > maxBlock:
		return h, driver.Errorf(driver.ErrCorrupt, "block_size %d must be %d MB or less", h.blockSize, maxBlock>>20)
	case h.blocks > maxBlocks:
		return h, driver.Errorf(driver.ErrCorrupt, "n_blocks %d must be %d or less", h.blocks, int64(maxBlocks))
	case h.tableSize() > maxTable:
		return h, driver.Errorf(driver.ErrCorrupt, "image requires too many offsets, try increasing block size")
	}
	return h, nil
}

func (h header) tableSize() int64 { return (h.blocks + 1) * entrySize }

func readHeader(ctx context.Context, file driver.Storage) (header, error) {
	var b [tableStart - preamble]byte
	if n, err := file.ReadAt(ctx, b[:], preamble); n < len(b) {
		if err == nil || err == io.EOF {
			err = driver.Errorf(driver.ErrFormat, "image not in cloop format: the file ends in the header")
		}
		return header{}, err
	}
	h, err := decodeHeader(b[:])
	if err == nil && tableStart+h.tableSize() > file.Size() {
		err = driver.Errorf(driver.ErrCorrupt, "the table of %d offsets reaches beyond the end of the file (%d bytes)", h.blocks+1, file.Size())
	}
	return h, err
}

// checkOffsets reads the whole table once, a piece at a time.
func (h header) checkOffsets(ctx context.Context, file driver.Storage) error {
	buf := bufpool.Get(int(min(h.tableSize(), 1<<20)))
	defer bufpool.Put(buf)
	before := uint64(0)
	for at, end := int64(0), h.tableSize(); at < end; {
		p := buf[:min(int64(len(buf)), end-at)]
		if n, err := file.ReadAt(ctx, p, tableStart+at); n < len(p) {
			if err == nil || err == io.EOF {
				err = driver.Errorf(driver.ErrTruncated, "the file ends in the table of offsets, at %d", tableStart+at+int64(n))
			}
			return err
		}
		for i := 0; i < len(p); i += entrySize {
			v := binary.BigEndian.Uint64(p[i:])
			if index := (at + int64(i)) / entrySize; index > 0 {
				if v < before || v > 1<<62 {
					return driver.Errorf(driver.ErrCorrupt, "offsets not monotonically increasing at index %d, image file is corrupt", index)
				}
				if v-before > maxEncoded {
					return driver.Errorf(driver.ErrCorrupt, "invalid compressed block size at index %d, image file is corrupt", index)
				}
			}
			before = v
		}
		at += int64(len(p))
	}
	return nil
}
