package zstd

import (
	"encoding/binary"
	"math/bits"

	"github.com/cowl-disk/cowl/internal/huffman"
)

// maxCode is the longest code of a literal, in bits (RFC 8878, section 4.2.1).
const maxCode = 11

// The types of a section of literals (section 3.1.1.3.1.1).
const (
	rawLiterals, equalLiterals, compressedLiterals, treelessLiterals = 0, 1, 2, 3
)

// prefixCode is a code of literals.
type prefixCode struct {
	lengths [256]uint8
	// codes has a code in the highest bits, and its length in the lowest.
	codes [256]uint64
	text  []byte // its description
}

// coder of literals.
type literalCoder struct {
	counts  [256]int32
	codes   [2]prefixCode
	made    int  // which of codes is made for the block under way
	before  bool // whether the other one is that of the last block
	mode    uint8
	weights weightCoder
}

// countBytes counts bytes.
func countBytes(counts *[256]int32, p []byte) {
	// Two tables, so that an equal byte does not wait for the one before.
	*counts = [256]int32{}
	var odd [256]int32
	for ; len(p) >= 8; p = p[8:] {
		v := binary.LittleEndian.Uint64(p)
		counts[uint8(v)]++
		odd[uint8(v>>8)]++
		counts[uint8(v>>16)]++
		odd[uint8(v>>24)]++
		counts[uint8(v>>32)]++
		odd[uint8(v>>40)]++
		counts[uint8(v>>48)]++
		odd[uint8(v>>56)]++
	}
	for _, b := range p {
		counts[b]++
	}
	for b, n := range odd {
		counts[b] += n
	}
}

// size is the number of bits of the counted bytes, and false if not all have a code.
func (c *prefixCode) size(counts *[256]int32) (n int, ok bool) {
	for s, k := range counts {
		if k > 0 {
			if c.lengths[s] == 0 {
				return 0, false
			}
			n += int(k) * int(c.lengths[s])
		}
	}
	return n, true
}

// assign derives the codes from the lengths (section 4.2.1.3).
func (c *prefixCode) assign() (longest int) {
	var number, next [maxCode + 1]uint16
	for _, l := range c.lengths {
		number[l]++
	}
	least := uint16(0)
	for l := maxCode; l > 0; l-- {
		if number[l] > 0 {
			longest = max(longest, l)
		}
		next[l] = least
		least = (least + number[l]) >> 1
	}
	for s, l := range c.lengths {
		if l > 0 {
			c.codes[s] = uint64(next[l])<<(64-l) | uint64(l)
			next[l]++
		} else {
			c.codes[s] = 0
		}
	}
	return longest
}

// appendLiterals appends the section of literals.
func (e *Encoder) appendLiterals(out []byte) []byte {
	p := e.literals[:e.copied]
	h := &e.huffman
	h.mode = rawLiterals
	if len(p) < minHuffman {
		return appendRaw(out, p)
	}
	countBytes(&h.counts, p)
	most, distinct := int32(0), 0
	for _, n := range h.counts {
		most = max(most, n)
		if n > 0 {
			distinct++
		}
	}
	if distinct == 1 {
		h.mode = equalLiterals
		return append(literalsHeader(out, equalLiterals, len(p)), p[0])
	}
	streams := 1
	over := 0
	if len(p) >= oneStream {
		streams, over = 4, 6
	}
	best := len(p) - len(p)>>6 - 2
	var use *prefixCode
	if h.before {
		c := &h.codes[h.made^1]
		if n, ok := c.size(&h.counts); ok && n/8+over+streams < best {
			use, best = c, n/8+over+streams
			h.mode = treelessLiterals
		}
	}
	if int(most) > len(p)>>7+4 {
		c := &h.codes[h.made]
		huffman.Lengths(c.lengths[:], h.counts[:], maxCode)
		n, _ := c.size(&h.counts)
		if n/8+over+streams < best {
			longest := c.assign()
			if c.describe(&h.weights, longest) && n/8+over+streams+len(c.text) < best {
				use, best = c, n/8+over+streams+len(c.text)
				h.mode = compressedLiterals
			}
		}
	}
	if use == nil {
		return appendRaw(out, p)
	}
	return e.appendCompressed(out, use, streams, best)
}

const (
	// minHuffman is from how many literals on a code is tried.
	minHuffman = 32
	// oneStream is from how many on there are four streams.
	oneStream = 256
)

// literalsHeader appends the header of literals without streams.
func literalsHeader(out []byte, mode, size int) []byte {
	switch {
	case size < 1<<5:
		return append(out, byte(mode|size<<3))
	case size < 1<<12:
		return append(out, byte(mode|1<<2|size<<4), byte(size>>4))
	}
	return append(out, byte(mode|3<<2|size<<4), byte(size>>4), byte(size>>12))
}

func appendRaw(out, p []byte) []byte {
	return append(literalsHeader(out, rawLiterals, len(p)), p...)
}

// appendCompressed appends literals in one or four streams.
func (e *Encoder) appendCompressed(out []byte, c *prefixCode, streams, estimate int) []byte {
	p := e.literals[:e.copied]
	first := len(out)
	header := 3
	switch {
	case len(p) >= 1<<14:
		header = 5
	case len(p) >= 1<<10:
		header = 4
	}
	out = append(out, 0, 0, 0, 0, 0)[:first+header]
	if e.huffman.mode == compressedLiterals {
		out = append(out, c.text...)
	}
	at := len(out)
	need := at + estimate + 64
	if cap(out) < need {
		out = append(make([]byte, 0, need), out...)
	}
	buf := out[:need]
	if streams == 1 {
		at = c.stream(buf, at, p)
	} else {
		jump := at
		at += 6
		part := (len(p) + 3) / 4
		for i := range 4 {
			begin := at
			at = c.stream(buf, at, p[i*part:min(len(p), (i+1)*part)])
			if i < 3 {
				binary.LittleEndian.PutUint16(buf[jump+2*i:], uint16(at-begin))
			}
		}
	}
	size := at - first - header
	mode := uint64(e.huffman.mode)
	n := uint64(len(p))
	switch {
	case header == 5:
		v := mode | 3<<2 | n<<4 | uint64(size)<<22
		binary.LittleEndian.PutUint32(buf[first:], uint32(v))
		buf[first+4] = byte(v >> 32)
	case header == 4:
		binary.LittleEndian.PutUint32(buf[first:], uint32(mode|2<<2|n<<4|uint64(size)<<18))
	default:
		v := mode | n<<4 | uint64(size)<<14
		if streams == 4 {
			v |= 1 << 2
		}
		buf[first], buf[first+1], buf[first+2] = byte(v), byte(v>>8), byte(v>>16)
	}
	return buf[:at]
}

// stream writes p, the last byte first, to buf[at:], and returns where it ends. buf has
// eight bytes more than are needed.
func (c *prefixCode) stream(buf []byte, at int, p []byte) int {
	// The bits are in the highest part of acc. Below there are leftovers of lengths, which are
	// shifted out before they come near.
	var acc, n uint64
	for len(p)%4 != 0 {
		v := c.codes[p[len(p)-1]]
		acc = acc>>(v&63) | v
		n += v
		p = p[:len(p)-1]
	}
	for {
		k := n & 0xff
		if k > 0 {
			binary.LittleEndian.PutUint64(buf[at:], acc>>((64-k)&63))
		}
		at += int(k >> 3)
		n = k & 7
		if len(p) == 0 {
			break
		}
		q := binary.LittleEndian.Uint32(p[len(p)-4:])
		p = p[:len(p)-4]
		v := c.codes[q>>24]
		acc = acc>>(v&63) | v
		n += v
		v = c.codes[uint8(q>>16)]
		acc = acc>>(v&63) | v
		n += v
		v = c.codes[uint8(q>>8)]
		acc = acc>>(v&63) | v
		n += v
		v = c.codes[uint8(q)]
		acc = acc>>(v&63) | v
		n += v
	}
	// A bit that marks the end.
	last := uint64(0)
	if n > 0 {
		last = acc >> (64 - n)
	}
	buf[at] = byte(last | 1<<n)
	return at + 1
}

// written notes that the block under way was written.
func (h *literalCoder) written() {
	if h.mode == compressedLiterals {
		h.made ^= 1
		h.before = true
	}
}

// weightCoder is what descriptions of codes are made with.
type weightCoder struct {
	weights [256]uint8
	counts  [maxSymbols]uint32
	table   table
	text    []byte
}

// describe makes the description of a code (section 4.2.1), and tells if there is one.
func (c *prefixCode) describe(w *weightCoder, longest int) bool {
	last := 255
	for c.lengths[last] == 0 {
		last--
	}
	// The last weight follows from the others.
	w.counts = [maxSymbols]uint32{}
	for s, l := range c.lengths[:last] {
		weight := uint8(0)
		if l > 0 {
			weight = uint8(longest+1) - l
		}
		w.weights[s] = weight
		w.counts[weight]++
	}
	c.text = append(c.text[:0], 0)
	direct := (last + 1) / 2
	if w.compress(last); len(w.text) > 0 && len(w.text) < 128 && (len(w.text) < direct || last > 128) {
		c.text = append(c.text, w.text...)
		c.text[0] = byte(len(w.text))
		return true
	}
	if last > 128 {
		return false
	}
	c.text[0] = byte(127 + last)
	w.weights[last] = 0
	for s := 0; s < last; s += 2 {
		c.text = append(c.text, w.weights[s]<<4|w.weights[s+1])
	}
	return true
}

// compress writes the first n weights with a table of their own (section 4.2.1.2). The
// text is empty if they cannot be.
func (w *weightCoder) compress(n int) {
	w.text = w.text[:0]
	last, used := 0, 0
	for s, k := range w.counts[:maxCode+2] {
		if k > 0 {
			last = s
			used++
		}
	}
	if n < 3 || used < 2 {
		return
	}
	log := uint8(min(6, max(minLog, bits.Len(uint(n-1))-2)))
	t := &w.table
	t.normalize(&w.counts, last, n, log)
	t.build(last)
	w.text = t.describe(w.text, last)
	var acc uint64
	var k uint
	put := func(v uint32, n uint) {
		acc |= uint64(v&(1<<n-1)) << k
		for k += n; k >= 8; k -= 8 {
			w.text = append(w.text, byte(acc))
			acc >>= 8
		}
	}
	// Two states take turns; the first weight is of the first.
	var states [2]uint32
	i := n - 1
	states[i&1] = t.begin(w.weights[i])
	i--
	states[i&1] = t.begin(w.weights[i])
	for i--; i >= 0; i-- {
		s := states[i&1]
		x := t.symbols[w.weights[i]]
		b := (s + x.bits) >> 16
		put(s, uint(b))
		states[i&1] = uint32(t.next[s>>b+uint32(x.state)])
	}
	put(states[1], uint(t.log))
	put(states[0], uint(t.log))
	put(1, 1)
	if k > 0 {
		w.text = append(w.text, byte(acc))
	}
}
