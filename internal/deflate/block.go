package deflate

import (
	"encoding/binary"
	"slices"
)

// bitWriter appends bits, the lowest first.
type bitWriter struct {
	out   []byte
	acc   uint64
	n     uint
	start int // in the source: where the block under way begins
}

func (w *bitWriter) put(v uint64, n uint) {
	w.acc |= v << w.n
	if w.n += n; w.n >= 32 {
		w.out = binary.LittleEndian.AppendUint32(w.out, uint32(w.acc))
		w.acc >>= 32
		w.n -= 32
	}
}

// whole moves whole bytes to the output; less than 8 bits stay.
func (w *bitWriter) whole() {
	for ; w.n >= 8; w.n -= 8 {
		w.out = append(w.out, byte(w.acc))
		w.acc >>= 8
	}
}

// align fills up the last byte with zero bits.
func (w *bitWriter) align() {
	for ; w.n > 0; w.n -= min(w.n, 8) {
		w.out = append(w.out, byte(w.acc))
		w.acc >>= 8
	}
	w.acc = 0
}

// The kinds of block and the symbol that ends one.
const (
	stored, fixed, dynamic = 0, 1, 2

	endOfBlock = 256
)

// flush writes the sequences of raw as one block in the shortest form.
func (e *Encoder) flush(raw []byte, final bool) {
	last := uint64(0)
	if final {
		last = 1
	}
	e.count(raw)
	tokens := &e.blocks[0]
	e.makeDynamic(tokens)
	fixedLits, fixedDists := fixedCodes()
	sizeFixed := fixedLits.size(e.lits[:]) + fixedDists.size(e.dists[:]) + e.extraBits()
	best := min(tokens.size, sizeFixed, (len(raw)+5*(len(raw)/0xffff+1))*8+8)
	// The bytes one by one may take less than with short matches in between.
	var literals *dynamicBlock
	if e.careful && e.literals(e.w.start+len(raw)) > len(raw)/8 && e.bytesMayWin(len(raw), best) {
		e.countBytes(raw)
		literals = &e.blocks[1]
		if e.makeDynamic(literals); literals.size >= best {
			literals = nil
		}
	}
	switch {
	case literals != nil:
		e.w.put(last|dynamic<<1, 3)
		literals.header.write(&e.w)
		e.writeBytes(&literals.lits, raw)
	case best == tokens.size:
		e.w.put(last|dynamic<<1, 3)
		tokens.header.write(&e.w)
		e.writeTokens(raw, &tokens.lits, &tokens.dists, best)
	case best == sizeFixed:
		e.w.put(last|fixed<<1, 3)
		e.writeTokens(raw, fixedLits, fixedDists, best)
	default:
		e.store(raw, last)
	}
}

// bytesMayWin tells whether a block of n bytes could take less than best bits without
// matches. No code takes less than the entropy, which is known of buffers of one block.
func (e *Encoder) bytesMayWin(n, best int) bool {
	return n != e.counted || float64(n)*e.perByte < float64(best)
}

// dynamicBlock is what a block with codes of its own is made with.
type dynamicBlock struct {
	lits, dists code
	header      treeHeader
	size        int // in bits, of all of the block
}

// makeDynamic makes the codes for the symbols that were counted.
func (e *Encoder) makeDynamic(d *dynamicBlock) {
	d.lits.build(e.lits[:], 15)
	d.dists.build(e.dists[:], 15)
	d.header.make(&d.lits, &d.dists)
	d.size = d.header.size() + d.lits.size(e.lits[:]) + d.dists.size(e.dists[:]) + e.extraBits()
}

// count counts the symbols of the block raw.
func (e *Encoder) count(raw []byte) {
	e.lits, e.dists = [286]int32{endOfBlock: 1}, [30]int32{}
	// Two tables, so that an equal byte does not wait for the one before.
	var odd [256]int32
	for _, s := range e.sequences {
		literals := raw[:s.literals]
		raw = raw[int(s.literals)+int(s.length):]
		for len(literals) >= 2 {
			e.lits[literals[0]]++
			odd[literals[1]]++
			literals = literals[2:]
		}
		if len(literals) > 0 {
			e.lits[literals[0]]++
		}
		e.lits[lengthCodes[uint8(s.length-minMatch)]]++
		e.dists[distanceCode(int(s.distance)+1)]++
	}
	for _, b := range raw {
		e.lits[b]++
	}
	for b, n := range odd {
		e.lits[b] += n
	}
}

// countBytes counts the symbols of bytes one by one.
func (e *Encoder) countBytes(raw []byte) {
	e.lits, e.dists = [286]int32{endOfBlock: 1}, [30]int32{}
	for _, b := range raw {
		e.lits[b]++
	}
}

// extraBits is how many bits follow the symbols that were counted.
func (e *Encoder) extraBits() (n int) {
	for s, k := range e.lits[257:] {
		n += int(k) * int(lengthExtra[s])
	}
	for s, k := range e.dists {
		n += int(k) * int(distanceExtra(s))
	}
	return n
}

// store writes blocks of bytes as they are.
func (e *Encoder) store(raw []byte, last uint64) {
	for more := true; more; {
		n := min(len(raw), 0xffff)
		more = n < len(raw)
		bit := last
		if more {
			bit = 0
		}
		e.w.put(bit|stored<<1, 3)
		e.w.align()
		e.w.out = binary.LittleEndian.AppendUint16(e.w.out, uint16(n))
		e.w.out = binary.LittleEndian.AppendUint16(e.w.out, ^uint16(n))
		e.w.out = append(e.w.out, raw[:n]...)
		raw = raw[n:]
	}
}

// writeTokens writes the block raw with matches; size is at least its number of bits.
func (e *Encoder) writeTokens(raw []byte, lits, dists *code, size int) {
	w := &e.w
	w.whole()
	at := len(w.out)
	w.out = slices.Grow(w.out, size/8+24)
	t := tokenWriter{out: w.out[:cap(w.out)], at: at, acc: w.acc, n: w.n}
	for b := range t.bytes {
		t.bytes[b] = uint32(lits.bits[b]) | uint32(lits.length[b])<<16
	}
	for _, s := range e.sequences {
		t.literals(raw[:s.literals])
		raw = raw[int(s.literals)+int(s.length):]
		t.match(lits, dists, s)
	}
	t.literals(raw)
	w.out, w.acc, w.n = t.out[:t.at], t.acc, t.n
	w.put(uint64(lits.bits[endOfBlock]), uint(lits.length[endOfBlock]))
}

// tokenWriter appends tokens to a buffer with room for them and eight bytes more. Between
// two calls there are less than eight bits in acc.
type tokenWriter struct {
	out   []byte
	at    int
	acc   uint64
	n     uint
	bytes [256]uint32 // the code of a byte, and above 16 bits its length
}

// spill moves whole bytes to the buffer.
func (t *tokenWriter) spill() {
	binary.LittleEndian.PutUint64(t.out[t.at:], t.acc)
	t.at += int(t.n >> 3)
	t.acc >>= t.n &^ 7 & 63
	t.n &= 7
}

// literals writes bytes one by one. Three take 45 bits at most.
func (t *tokenWriter) literals(p []byte) {
	acc, n, at := t.acc, t.n, t.at
	for len(p) >= 3 {
		a, b, c := t.bytes[p[0]], t.bytes[p[1]], t.bytes[p[2]]
		acc |= uint64(a&0xffff) << (n & 63)
		n += uint(a >> 16)
		acc |= uint64(b&0xffff) << (n & 63)
		n += uint(b >> 16)
		acc |= uint64(c&0xffff) << (n & 63)
		n += uint(c >> 16)
		binary.LittleEndian.PutUint64(t.out[at:], acc)
		at += int(n >> 3)
		acc >>= n &^ 7 & 63
		n &= 7
		p = p[3:]
	}
	for _, b := range p {
		a := t.bytes[b]
		acc |= uint64(a&0xffff) << (n & 63)
		n += uint(a >> 16)
	}
	t.acc, t.n, t.at = acc, n, at
	t.spill()
}

// match writes the match of a sequence, which takes 48 bits at most.
func (t *tokenWriter) match(lits, dists *code, s sequence) {
	length, distance := uint8(s.length-minMatch), uint64(s.distance)
	symbol := lengthCodes[length] & 0x1ff
	t.acc |= (uint64(lits.bits[symbol]) | uint64(length-lengthLess[symbol-257])<<lits.length[symbol]) << (t.n & 63)
	t.n += uint(lits.length[symbol]) + lengthExtra[symbol-257]
	d := distanceCode(int(distance) + 1)
	x := distanceExtra(d)
	t.acc |= (uint64(dists.bits[d]) | distance&(1<<x-1)<<dists.length[d]) << (t.n & 63)
	t.n += uint(dists.length[d]) + x
	t.spill()
}

// writeBytes writes the bytes of raw one by one.
func (e *Encoder) writeBytes(lits *code, raw []byte) {
	for _, b := range raw {
		e.w.put(uint64(lits.bits[b]), uint(lits.length[b]))
	}
	e.w.put(uint64(lits.bits[endOfBlock]), uint(lits.length[endOfBlock]))
}

// treeHeader is the description of the codes of a dynamic block (section 3.2.7).
type treeHeader struct {
	lits, dists int // numbers of lengths
	symbols     []treeSymbol
	all         [286 + 30]treeSymbol // what symbols is a part of
	code        code
	lengths     int // of the code for lengths
}

// treeSymbol is a code length, or a repetition with its extra bits.
type treeSymbol struct{ symbol, extra uint8 }

// treeOrder is the order in which lengths of the code for lengths are written.
var treeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// treeExtra is the number of extra bits of a symbol of the code for lengths.
func treeExtra(symbol uint8) uint {
	switch symbol {
	case 16:
		return 2
	case 17:
		return 3
	case 18:
		return 7
	}
	return 0
}

// make describes two codes.
func (h *treeHeader) make(lits, dists *code) {
	h.lits, h.dists, h.lengths, h.symbols = 286, 30, 19, h.all[:0]
	for h.lits > 257 && lits.length[h.lits-1] == 0 {
		h.lits--
	}
	for h.dists > 1 && dists.length[h.dists-1] == 0 {
		h.dists--
	}
	var all [286 + 30]uint8
	n := copy(all[:], lits.length[:h.lits])
	n += copy(all[n:], dists.length[:h.dists])
	for i := 0; i < n; {
		v, run := all[i], 1
		for i+run < n && all[i+run] == v {
			run++
		}
		i += run
		if v != 0 {
			h.symbols = append(h.symbols, treeSymbol{symbol: v})
			run--
		}
		for run > 0 {
			switch {
			case v == 0 && run >= 11:
				k := min(run, 138)
				h.symbols = append(h.symbols, treeSymbol{18, uint8(k - 11)})
				run -= k
			case v == 0 && run >= 3:
				h.symbols = append(h.symbols, treeSymbol{17, uint8(run - 3)})
				run = 0
			case v != 0 && run >= 3:
				k := min(run, 6)
				h.symbols = append(h.symbols, treeSymbol{16, uint8(k - 3)})
				run -= k
			default:
				h.symbols = append(h.symbols, treeSymbol{symbol: v})
				run--
			}
		}
	}
	var counts [19]int32
	for _, s := range h.symbols {
		counts[s.symbol]++
	}
	h.code.build(counts[:], 7)
	for h.lengths > 4 && h.code.length[treeOrder[h.lengths-1]] == 0 {
		h.lengths--
	}
}

// size is the number of bits of the description.
func (h *treeHeader) size() int {
	n := 5 + 5 + 4 + 3*h.lengths
	for _, s := range h.symbols {
		n += int(h.code.length[s.symbol]) + int(treeExtra(s.symbol))
	}
	return n
}

func (h *treeHeader) write(w *bitWriter) {
	w.put(uint64(h.lits-257), 5)
	w.put(uint64(h.dists-1), 5)
	w.put(uint64(h.lengths-4), 4)
	for _, s := range treeOrder[:h.lengths] {
		w.put(uint64(h.code.length[s]), 3)
	}
	for _, s := range h.symbols {
		w.put(uint64(h.code.bits[s.symbol]), uint(h.code.length[s.symbol]))
		w.put(uint64(s.extra), treeExtra(s.symbol))
	}
}
