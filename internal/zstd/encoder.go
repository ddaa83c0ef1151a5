package zstd

import (
	"encoding/binary"
	"math"
)

// Encoder compresses buffers, one at a time. The zero value is ready for use.
type Encoder struct {
	window window
	isNear bool            // whether positions have 16 bits
	near   *tables[uint16] // if so
	far    *tables[uint32]

	repeats [3]uint32 // the offsets used last

	// The block under way: its sequences, and all literals.
	sequences []sequence
	coded     []codedSequence // the same, for those of e.sequences
	literals  [maxBlock + slack]byte
	copied    int // how many literals there are
	huffman   literalCoder

	ll, ml, of coder
	body       []byte // of a block
}

// MaxSize is the size of the largest buffer, in bytes. It is a power of two, so that the compiler
// knows from a mask that an index is in bounds.
const MaxSize = 2 * maxBlock

const (
	magic = 0xfd2fb528
	// maxBlock is the largest block, in bytes of what it decodes to (RFC 8878, section 3.1.1.2.4).
	maxBlock = 128 << 10
	// maxSequences is how many sequences a block has at most.
	maxSequences = 10 << 10
)

// The types of a block (section 3.1.1.2.2).
const (
	rawBlock, equalBlock, compressedBlock = 0, 1, 2
)

// Append appends src, compressed as one frame, to dst. It gives up and returns dst once more
// than limit bytes would be appended; ok tells which. src has up to MaxSize bytes.
func (e *Encoder) Append(dst, src []byte, limit int) (out []byte, ok bool) {
	e.reset(src)
	limit += len(dst)
	out = appendHeader(dst, len(src))
	for i := 0; ; {
		repeats := e.repeats
		end := e.parse(i, len(src))
		block, last := src[i:end], end == len(src)
		header := 0
		if last {
			header = 1
		}
		switch {
		case i > 0 && e.allEqual(block):
			e.repeats = repeats
			out = append(appendBlockHeader(out, header|equalBlock<<1, len(block)), block[0])
		case e.compress(len(block)):
			out = append(appendBlockHeader(out, header|compressedBlock<<1, len(e.body)), e.body...)
			e.huffman.written()
			if len(e.sequences) > 0 {
				e.ll.written()
				e.ml.written()
				e.of.written()
			}
		default:
			e.repeats = repeats
			if len(out)+3+len(block) > limit {
				return dst, false
			}
			out = append(appendBlockHeader(out, header|rawBlock<<1, len(block)), block...)
		}
		if len(out) > limit {
			return dst, false
		}
		if last {
			return out, true
		}
		i = end
	}
}

// reset prepares for a buffer.
func (e *Encoder) reset(src []byte) {
	if len(src) > MaxSize {
		panic("zstd: a buffer of more than MaxSize bytes")
	}
	if e.ll.alphabet == nil {
		e.ll.init(&literalLengths)
		e.ml.init(&matchLengths)
		e.of.init(&offsets)
	}
	e.repeats = [3]uint32{1, 4, 8}
	e.huffman.before, e.ll.before, e.ml.before, e.of.before = false, false, false, false
	if e.sequences == nil {
		e.sequences = make([]sequence, 0, maxSequences+1)
		e.coded = make([]codedSequence, maxSequences+1)
	}
	copy(e.window[:], src)
	// Lengths are counted some bytes too far. What is there must not be left from the buffer before,
	// or the choice between two matches could depend on it.
	clear(e.window[len(src) : len(src)+slack])
	switch e.isNear = len(src) <= 1<<16; {
	case e.isNear && e.near == nil:
		e.near = new(tables[uint16])
	case e.isNear:
		*e.near = tables[uint16]{}
	case e.far == nil:
		e.far = new(tables[uint32])
	default:
		*e.far = tables[uint32]{}
	}
}

// appendHeader appends the header of a frame (section 3.1.1.1): the window is all of it.
func appendHeader(out []byte, size int) []byte {
	const singleSegment = 1 << 5
	out = binary.LittleEndian.AppendUint32(out, magic)
	switch {
	case size < 256:
		return append(out, singleSegment, byte(size))
	case size < 256+1<<16:
		return binary.LittleEndian.AppendUint16(append(out, 1<<6|singleSegment), uint16(size-256))
	}
	return binary.LittleEndian.AppendUint32(append(out, 2<<6|singleSegment), uint32(size))
}

func appendBlockHeader(out []byte, flags, size int) []byte {
	v := flags | size<<3
	return append(out, byte(v), byte(v>>8), byte(v>>16))
}

// allEqual tells if the block, which was parsed, has one byte over and over.
func (e *Encoder) allEqual(block []byte) bool {
	if len(block) < 2 {
		return len(block) == 1
	}
	return len(e.sequences) == 1 && e.copied == 1 && block[0] == block[1] && block[len(block)-1] == block[0] && int(e.sequences[0].match)+minMatch == len(block)-1 && e.repeats[0] == 1
}

// compress makes the body of a block that decodes to size bytes and tells if it is smaller.
func (e *Encoder) compress(size int) bool {
	e.body = e.appendLiterals(e.body[:0])
	if len(e.sequences) == 0 && e.huffman.mode == rawLiterals {
		return false
	}
	e.body = e.appendSequences(e.body)
	return len(e.body) < size
}

// log2 is the binary logarithm of a share of a table.
func log2(n int) float64 { return math.Log2(float64(n)) }
