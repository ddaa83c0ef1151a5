package dmg

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	sectorSize  = 512
	trailerSize = 512
	// maxList bounds the property list and the resource fork, in bytes. A list is a
	// thousandth of the disk at most.
	maxList = 32 << 20
	// maxChunk bounds a run that is decoded, before and after decoding, in bytes.
	maxChunk = 64 << 20

	checksumCRC32 = 2 // type of a checksum
)

// trailer is what the record at the end of a file says. Offsets and lengths are in
// bytes, in the file unless they say otherwise.
type trailer struct {
	at           int64 // where the trailer is
	running      int64 // where the data of this segment are in all data
	data, length int64 // the data of this segment
	rsrc, rsrcN  int64
	list, listN  int64
	segment      uint32 // from 1; 0 as 1
	segments     uint32
	id           [16]byte // of all segments
	dataSum      checksum // of the data as they are in the file
	masterSum    checksum // of the checksums of the tables
	sectors      int64    // of the disk
}

// checksum is a checksum in an image; only CRC-32 is known here.
type checksum struct {
	kind  uint32
	value uint32
}

var be = binary.BigEndian

func decodeChecksum(b []byte) checksum { return checksum{kind: be.Uint32(b), value: be.Uint32(b[8:])} }

// findTrailer looks where a trailer may be: the length of an image need not be a
// multiple of a sector, and tools pad it. It returns nil if there is none.
func findTrailer(ctx context.Context, file driver.Storage) (*trailer, error) {
	size := file.Size()
	if size == 0 {
		return nil, driver.Errorf(driver.ErrFormat, "dmg file must be at least %d bytes long", trailerSize)
	}
	if size < trailerSize {
		return nil, nil
	}
	start := max(0, size-2*trailerSize+1)
	buf := make([]byte, size-start)
	if n, err := file.ReadAt(ctx, buf, start); n < len(buf) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	for i := len(buf) - trailerSize; i >= 0; i-- {
		if bytes.HasPrefix(buf[i:], []byte("koly")) {
			return decodeTrailer(buf[i:i+trailerSize], start+int64(i))
		}
	}
	return nil, nil
}

// decodeTrailer reads a trailer, which is at an offset of the file.
func decodeTrailer(b []byte, at int64) (*trailer, error) {
	var wrong string
	// part reads a range of the file: it ends before the trailer.
	part := func(what string, off int) (int64, int64) {
		o, n := be.Uint64(b[off:]), be.Uint64(b[off+8:])
		if o > uint64(at) || n > uint64(at)-o {
			wrong = what
		}
		return int64(o), int64(n)
	}
	t := &trailer{at: at, segment: be.Uint32(b[56:]), segments: be.Uint32(b[60:]), dataSum: decodeChecksum(b[80:]), masterSum: decodeChecksum(b[352:])}
	copy(t.id[:], b[64:])
	t.data, t.length = part("data fork", 24)
	t.rsrc, t.rsrcN = part("resource fork", 40)
	t.list, t.listN = part("property list", 216)
	running, sectors := be.Uint64(b[16:]), be.Uint64(b[492:])
	switch {
	case wrong != "":
		return nil, driver.Errorf(driver.ErrCorrupt, "the %s reaches beyond the trailer at offset %d", wrong, at)
	case running > math.MaxInt64/2:
		return nil, driver.Errorf(driver.ErrCorrupt, "the segment begins at byte %d of the data", running)
	case sectors > math.MaxInt64/sectorSize:
		return nil, driver.Errorf(driver.ErrCorrupt, "a disk of %d sectors is too large", sectors)
	}
	t.running, t.sectors = int64(running), int64(sectors)
	return t, nil
}

// isPlain tells whether a file without a trailer begins as a disk that a Mac would use
// does: with a partition table, or with a file system of Apple.
func isPlain(head []byte) bool {
	at := func(off int, magic string) bool {
		return len(head) >= off+len(magic) && string(head[off:off+len(magic)]) == magic
	}
	return at(0, "ER") || at(512, "PM\x00\x00") || at(512, "EFI PART") || at(510, "\x55\xaa") ||
		at(1024, "H+") || at(1024, "HX") || at(1024, "BD") || at(32, "NXSB")
}
