package xz

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// blockHeader is what a block says of itself.
type blockHeader struct {
	length           int   // of the header
	packed, unpacked int64 // sizes, -1 if not said
	dict             int64
}

// parseBlockHeader decodes a block header with its size byte and its checksum.
func parseBlockHeader(b []byte) (h blockHeader, err error) {
	body := b[:len(b)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return h, fmt.Errorf("%w: the checksum of a block header is wrong", ErrFormat)
	}
	h = blockHeader{length: len(b), packed: -1, unpacked: -1}
	flags := body[1]
	r := bytes.NewReader(body[2:])
	if flags&0x40 != 0 {
		if h.packed, err = readSize(r); err != nil {
			return h, err
		}
	}
	if flags&0x80 != 0 {
		if h.unpacked, err = readSize(r); err != nil {
			return h, err
		}
	}
	if flags&0x3f != 0 {
		return h, fmt.Errorf("%w: a block has filters other than LZMA2, which are not supported", ErrFormat)
	}
	id, err := readNumber(r)
	if err != nil {
		return h, err
	}
	size, err := readNumber(r)
	if err != nil {
		return h, err
	}
	bits, err := r.ReadByte()
	if id != lzma2Filter || size != 1 || err != nil || bits > 40 {
		return h, fmt.Errorf("%w: filter %#x is not supported", ErrFormat, id)
	}
	if h.dict = 1<<32 - 1; bits < 40 {
		h.dict = int64(2|bits&1) << (bits/2 + 11)
	}
	for r.Len() > 0 {
		if c, _ := r.ReadByte(); c != 0 {
			return h, fmt.Errorf("%w: the padding of a block header is wrong", ErrFormat)
		}
	}
	return h, nil
}

func readSize(r io.ByteReader) (int64, error) {
	v, err := readNumber(r)
	if err == nil && v >= 1<<62 {
		err = fmt.Errorf("%w: a size is out of range", ErrFormat)
	}
	return int64(v), err
}

// dictBits returns the encoding of the smallest dictionary of at least n bytes.
func dictBits(n int) (bits byte) {
	for bits < 40 && int64(2|bits&1)<<(bits/2+11) < int64(n) {
		bits++
	}
	return bits
}
