package xz

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
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

// Append compresses src as a stream of one block with a CRC32 to dst, as squashfs has its
// blocks. dict is the dictionary size in bytes. It gives up and returns false when the
// stream would be longer than limit bytes.
func Append(dst, src []byte, dict, limit int) ([]byte, bool, error) {
	base := len(dst)
	out := &bounded{b: dst, max: base + limit}
	header := []byte(Magic + "\x00\x01")
	header = binary.LittleEndian.AppendUint32(header, crc32.ChecksumIEEE(header[6:]))
	block := []byte{2, 0, lzma2Filter, 1, dictBits(dict), 0, 0, 0}
	header = binary.LittleEndian.AppendUint32(append(header, block...), crc32.ChecksumIEEE(block))
	if _, err := out.Write(header); err != nil {
		return dst, false, nil
	}
	start := len(out.b)
	w, err := lzma.Writer2Config{DictCap: max(dict, lzma.MinDictCap), BufSize: max(4096, min(dict, 1<<16)), Matcher: lzma.HashTable4}.NewWriter2(out)
	if err != nil {
		return dst, false, err
	}
	_, err = w.Write(src)
	if err == nil {
		err = w.Close()
	}
	if out.full {
		return dst, false, nil
	}
	if err != nil {
		return dst, false, err
	}
	packed := len(out.b) - start
	tail := make([]byte, -packed&3)
	tail = binary.LittleEndian.AppendUint32(tail, crc32.ChecksumIEEE(src))
	index := []byte{0, 1}
	index = binary.AppendUvarint(index, uint64(len(block)+4+packed+4))
	index = binary.AppendUvarint(index, uint64(len(src)))
	index = append(index, make([]byte, -len(index)&3)...)
	index = binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(index))
	footer := binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1))
	footer = append(footer, 0, checkCRC32)
	tail = append(tail, index...)
	tail = binary.LittleEndian.AppendUint32(tail, crc32.ChecksumIEEE(footer))
	tail = append(append(tail, footer...), "YZ"...)
	if _, err := out.Write(tail); err != nil {
		return dst, false, nil
	}
	return out.b, true, nil
}

// bounded is a buffer that takes no more than max bytes.
type bounded struct {
	b    []byte
	max  int
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.b)+len(p) > b.max {
		b.full = true
	}
	if b.full {
		return 0, io.ErrShortBuffer
	}
	b.b = append(b.b, p...)
	return len(p), nil
}
