package xz

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// The limits of a chunk of LZMA2.
const (
	chunkPacked   = 1 << 16
	chunkUnpacked = 1 << 21
	chunkStop     = chunkPacked - 6144 // packed bytes after which a chunk is ended: no path takes the rest
	pricesStale   = 256                // symbols after which prices are computed again
)

// Encoder compresses buffers one after the other. One goroutine at a time uses it. It
// takes some 13 MiB of memory for buffers of 1 MiB, and 80 MiB for those of Window and more. The output depends on the buffer only.
type Encoder struct {
	parser parser
	model  model
	coder  rangeCoder
	chunk  []byte
}

// NewEncoder returns an encoder.
func NewEncoder() *Encoder { return &Encoder{} }

func (e *Encoder) start(src []byte) {
	e.model.reset()
	e.parser.model = &e.model
	e.parser.finder.reset(src)
	e.parser.isLooked = false
	e.parser.updatePrices()
}

// run encodes src from pos on, until stop packed bytes have come or the end, and returns
// where it is.
func (e *Encoder) run(src []byte, pos, end, stop int) int {
	symbols := 0
	for pos < end && len(e.coder.out) < stop {
		for _, s := range e.parser.next(src, pos) {
			e.model.encode(&e.coder, src, pos, s.length, s.back)
			pos += int(s.length)
			symbols++
		}
		if symbols >= pricesStale {
			symbols = 0
			e.parser.updatePrices()
		}
	}
	return pos
}

// Append compresses src as a stream of one block with a CRC32 to dst, as squashfs has its
// blocks. dict is the dictionary size in bytes that readers are told, at least len(src) or Window.
// It gives up and returns false when the stream would be longer than limit bytes.
func (e *Encoder) Append(dst, src []byte, dict, limit int) (out []byte, ok bool) {
	out = append(dst, Magic+"\x00\x01"...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(out[len(out)-2:]))
	block := []byte{2, 0, lzma2Filter, 1, dictBits(dict), 0, 0, 0}
	out = binary.LittleEndian.AppendUint32(append(out, block...), crc32.ChecksumIEEE(block))
	start := len(out)
	e.start(src)
	control := byte(0xe0) // resets everything
	for pos := 0; pos < len(src); {
		if len(out)-len(dst) > limit {
			return dst, false
		}
		e.coder.reset(e.chunk[:0])
		next := e.run(src, pos, min(len(src), pos+chunkUnpacked-maxNodes-maxMatch), chunkStop)
		e.chunk = e.coder.finish()
		packed, unpacked := len(e.chunk), next-pos
		if packed >= unpacked || packed > chunkPacked {
			out = appendRaw(out, src[pos:next], pos == 0)
			control, pos = 0xc0, next // the next one resets the properties and the state
			e.model.reset()
			e.parser.updatePrices()
			continue
		}
		out = append(out, control|byte((unpacked-1)>>16))
		out = binary.BigEndian.AppendUint16(out, uint16(unpacked-1))
		out = binary.BigEndian.AppendUint16(out, uint16(packed-1))
		if control >= 0xc0 {
			out = append(out, properties)
		}
		out = append(out, e.chunk...)
		control, pos = 0x80, next
	}
	out = append(out, 0)
	packed := len(out) - start
	out = append(out, make([]byte, -packed&3)...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(src))
	index := []byte{0, 1}
	index = binary.AppendUvarint(index, uint64(len(block)+4+packed+4))
	index = binary.AppendUvarint(index, uint64(len(src)))
	index = append(index, make([]byte, -len(index)&3)...)
	index = binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(index))
	footer := binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1))
	footer = append(footer, 0, checkCRC32)
	out = append(out, index...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(footer))
	out = append(append(out, footer...), "YZ"...)
	if len(out)-len(dst) > limit {
		return dst, false
	}
	return out, true
}

// appendRaw appends bytes that are not compressed.
func appendRaw(out, b []byte, first bool) []byte {
	control := byte(2)
	if first {
		control = 1
	}
	for len(b) > 0 {
		n := min(len(b), chunkPacked)
		out = append(out, control)
		out = binary.BigEndian.AppendUint16(out, uint16(n-1))
		out = append(out, b[:n]...)
		b, control = b[n:], 2
	}
	return out
}

// AppendAlone compresses src in the older format that is called lzma or "alone": a header
// with the size, no marker of the end, no checksum.
func (e *Encoder) AppendAlone(dst, src []byte, dict, limit int) (out []byte, ok bool) {
	out = append(dst, properties)
	out = binary.LittleEndian.AppendUint32(out, uint32(dict))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(src)))
	e.start(src)
	base := bytes.Clone(out)
	e.coder.reset(base[len(dst):])
	if e.run(src, 0, len(src), limit+1) < len(src) {
		return dst, false
	}
	packed := e.coder.finish()
	if len(packed) > limit {
		return dst, false
	}
	return append(dst, packed...), true
}
