package vmdk

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/internal/chunks"
)

// Markers of stream-optimized extents (section "Stream-Optimized Compressed Extents").
// One is 16 bytes at the start of a sector: a number, a size that is not zero for a
// grain only, and a type.
const (
	markerEnd       = 0
	markerTable     = 1
	markerDirectory = 2
	markerFooter    = 3

	grainMarkerSize = 12 // sector of the disk, length of the data, then the data
)

// readFooter reads the header that is behind all data: the last sectors of the file are
// a marker, the footer, and the marker of the end.
func readFooter(ctx context.Context, file driver.Storage) (*sparseHeader, error) {
	const size = 3 * sectorSize
	end := (file.Size() + sectorSize - 1) / sectorSize * sectorSize
	b := make([]byte, size)
	if end < size {
		return nil, driver.Errorf(driver.ErrTruncated, "invalid footer")
	}
	if n, err := file.ReadAt(ctx, b, end-size); err != nil && err != io.EOF {
		return nil, err
	} else if n < size-sectorSize+16 {
		return nil, driver.Errorf(driver.ErrTruncated, "invalid footer")
	}
	last := b[2*sectorSize:]
	if le.Uint32(b[8:]) != 0 || le.Uint32(b[12:]) != markerFooter || string(b[sectorSize:sectorSize+4]) != magicSparse ||
		le.Uint64(last) != 0 || le.Uint32(last[8:]) != 0 || le.Uint32(last[12:]) != markerEnd {
		return nil, driver.Errorf(driver.ErrCorrupt, "invalid footer")
	}
	h := decodeSparse(b[sectorSize : 2*sectorSize])
	if h.dir == directoryAtEnd {
		return nil, driver.Errorf(driver.ErrCorrupt, "invalid footer")
	}
	return h, nil
}

// findChunk returns the grain that holds an offset of the extent.
func (x *extent) findChunk(ctx context.Context, off int64) (chunks.Chunk, error) {
	u := off / x.grain
	e, err := x.disk.Entry(ctx, u)
	if err != nil {
		return chunks.Chunk{}, err
	}
	if e.State != blockmap.Encoded {
		return chunks.Chunk{}, driver.Errorf(driver.ErrInvalid, "the grain at %d is not compressed", off)
	}
	return x.chunk(u, e), nil
}

// chunk returns the grain of an entry that names one.
func (x *extent) chunk(u int64, e blockmap.Entry) chunks.Chunk {
	return chunks.Chunk{Offset: u * x.grain, Length: min(x.grain, x.size.Load()-u*x.grain), File: x.file, Host: e.Host, Size: min(e.Length, max(0, x.file.Size()-e.Host))}
}

// decode implements chunks.Decoder. Some writers leave the end out of a last grain that
// is not whole; the end of others that is behind the disk is cut.
func (x *extent) decode(dst []byte, in *chunks.Input, c chunks.Chunk) error {
	if x.markers {
		var m [grainMarkerSize]byte
		if _, err := io.ReadFull(in, m[:]); err != nil {
			return err
		}
		length := int64(le.Uint32(m[8:]))
		if length == 0 || length > 2*x.grain {
			return driver.Errorf(driver.ErrCorrupt, "a grain of %d compressed bytes is impossible", length)
		}
		in.Limit(length)
	}
	whole := dst
	if int64(len(dst)) < x.grain {
		whole = make([]byte, x.grain)
	}
	n, err := x.zlib.Decode(whole, in)
	if err != nil {
		return err
	}
	if n < len(dst) {
		return io.ErrUnexpectedEOF
	}
	if len(whole) != len(dst) {
		copy(dst, whole)
	}
	return nil
}
