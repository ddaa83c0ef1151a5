package vhdx

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
)

// Offsets of the fields in a header (2.2.2).
const (
	headerSignature = "head"
	offSequence     = 8
	offFileWrite    = 16
	offDataWrite    = 32
	offLogGUID      = 48
	offLogVersion   = 64
	offVersion      = 66
	offLogLength    = 68
	offLogOffset    = 72
)

// header is one of the two headers.
type header struct {
	raw       [headerSize]byte // what was read, for the fields that are not known
	sequence  uint64
	fileWrite guid // changes with the file
	dataWrite guid // changes with the contents of the disk
	log       guid // of the entries of the log; zero: there are none
	logOffset int64
	logLength int64
}

// decodeHeader returns nil for what is no header.
func decodeHeader(b []byte) *header {
	if string(b[:4]) != headerSignature || !sealed(b) || le.Uint16(b[offVersion:]) != 1 {
		return nil
	}
	h := &header{sequence: le.Uint64(b[offSequence:]), logLength: int64(le.Uint32(b[offLogLength:]))}
	copy(h.raw[:], b)
	copy(h.fileWrite[:], b[offFileWrite:])
	copy(h.dataWrite[:], b[offDataWrite:])
	copy(h.log[:], b[offLogGUID:])
	h.logOffset = int64(min(le.Uint64(b[offLogOffset:]), 1<<62))
	return h
}

func (h *header) encode() []byte {
	b := h.raw
	copy(b[:], headerSignature)
	le.PutUint64(b[offSequence:], h.sequence)
	copy(b[offFileWrite:], h.fileWrite[:])
	copy(b[offDataWrite:], h.dataWrite[:])
	copy(b[offLogGUID:], h.log[:])
	le.PutUint16(b[offVersion:], 1)
	le.PutUint32(b[offLogLength:], uint32(h.logLength))
	le.PutUint64(b[offLogOffset:], uint64(h.logOffset))
	seal(b[:])
	return b[:]
}

// newGUID returns a random identifier, version 4 of RFC 9562.
func newGUID() (g guid) {
	rand.Read(g[:]) // never fails
	g[7] = g[7]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

// readAt fills p from offset off of a file, with zeroes for what lies behind its end.
func readAt(ctx context.Context, file driver.Storage, p []byte, off int64) error {
	n, err := file.ReadAt(ctx, p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(p[n:])
	return nil
}

// readHeader returns the header that counts, and which of the two it is.
func readHeader(ctx context.Context, file driver.Storage) (*header, int, error) {
	var both [2]*header
	for i, off := range headerOffsets {
		b := make([]byte, headerSize)
		if err := readAt(ctx, file, b, off); err != nil {
			return nil, 0, err
		}
		both[i] = decodeHeader(b)
	}
	a, b := both[0], both[1]
	at := 0
	switch {
	case a == nil && b == nil:
		return nil, 0, corrupt("no valid VHDX header found")
	case a == nil, b != nil && b.sequence > a.sequence:
		at = 1
	case b != nil && a.sequence == b.sequence && !bytes.Equal(a.raw[:], b.raw[:]):
		// Disk2vhd writes the same header twice.
		return nil, 0, corrupt("no valid VHDX header found: two with the number %d differ", a.sequence)
	}
	h := both[at]
	if v := le.Uint16(h.raw[offLogVersion:]); v != 0 {
		return nil, 0, unsupported("the log has version %d, which is not known", v)
	}
	if h.logOffset < headerEnd || h.logOffset%mib != 0 || h.logLength%mib != 0 {
		return nil, 0, corrupt("a log of %d bytes at offset %d cannot be right", h.logLength, h.logOffset)
	}
	return h, at, nil
}

// writeHeader makes h the header that counts, in both places one after the other, so that
// one of them is whole at any time. mu is held.
func (im *image) writeHeader(ctx context.Context, h header) error {
	for range headerOffsets {
		h.sequence++
		at := 1 - im.current
		if _, err := im.raw.WriteAt(ctx, h.encode(), headerOffsets[at]); err != nil {
			return err
		}
		if err := im.raw.Flush(ctx); err != nil {
			return err
		}
		im.header, im.current = h, at
	}
	return nil
}
