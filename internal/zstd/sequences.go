package zstd

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// sequence is some literals and the match behind them (RFC 8878, section 3.1.1.3.2).
type sequence struct {
	literals uint32
	match    uint32 // its length, less minMatch
	offset   uint32 // the value that is coded: 1 to 3 repeat an offset, others are 3 more
}

// codedSequence is a sequence as its codes and the bits that follow them.
type codedSequence struct {
	extra uint64
	bits  uint32 // of extra
	codes uint32 // of literals, match and offset, 8 bits each
}

// minMatch is the shortest match of the format.
const minMatch = 3

// The modes of a table (section 3.1.1.3.2.1).
const (
	predefined, oneSymbol, described, repeated = 0, 1, 2, 3
)

// alphabet is a kind of codes in sequences.
type alphabet struct {
	log  uint8   // of the predefined table
	most uint8   // the log of described ones
	norm []int16 // of the predefined table
}

var (
	literalLengths = alphabet{log: 6, most: 9,
		norm: []int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1,
			-1, -1, -1, -1},
	}
	matchLengths = alphabet{log: 6, most: 9,
		norm: []int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
			1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1},
	}
	offsets = alphabet{log: 5, most: 8,
		norm: []int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
			-1, -1, -1, -1, -1},
	}
)

// How many bits follow a code.
var (
	literalsExtra = [maxSymbols]uint8{16: 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	matchExtra    = [maxSymbols]uint8{32: 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
)

// literalsCodes are the codes of up to 63 literals; more have their logarithm and 19.
var literalsCodes = [64]uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
	16, 16, 17, 17, 18, 18, 19, 19, 20, 20, 20, 20, 21, 21, 21, 21,
	22, 22, 22, 22, 22, 22, 22, 22, 23, 23, 23, 23, 23, 23, 23, 23,
	24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24}

// matchCodes are the codes of matches of less than minMatch + 128 bytes; longer ones have
// their logarithm and 36.
var matchCodes = func() (t [128]uint8) {
	code, n := 0, 0
	for i := range t {
		if n == 1<<matchExtra[code] {
			code, n = code+1, 0
		}
		t[i] = uint8(code)
		n++
	}
	return t
}()

func literalsCode(n uint32) uint32 {
	if n < 64 {
		return uint32(literalsCodes[n])
	}
	return uint32(bits.Len32(n)) + 18
}

func matchCode(n uint32) uint32 {
	if n < 128 {
		return uint32(matchCodes[n])
	}
	return uint32(bits.Len32(n)) + 35
}

// coder writes the codes of one alphabet.
type coder struct {
	*alphabet
	fixed  table // predefined
	tables [2]table
	made   int  // which one of tables is made for the block under way
	before bool // whether the other one is that of the last block

	counts [maxSymbols]uint32
	// How the block under way is written:
	mode   uint8
	symbol uint8 // of mode oneSymbol
	use    *table
	text   []byte // the description of use
}

func (c *coder) init(a *alphabet) {
	c.alphabet = a
	c.fixed.log = a.log
	copy(c.fixed.norm[:], a.norm)
	c.fixed.build(len(a.norm) - 1)
}

// bits returns how many bits the counted symbols take with a table, without extra bits.
func (t *table) bits(counts *[maxSymbols]uint32, last int) float64 {
	sum := 0.0
	for s, n := range counts[:last+1] {
		if n == 0 {
			continue
		}
		share := t.norm[s]
		if share == 0 {
			return math.Inf(1)
		}
		sum += float64(n) * (float64(t.log) - log2(int(max(share, 1))))
	}
	return sum
}

// choose decides how the counted codes of n sequences are written.
func (c *coder) choose(n int) {
	last, used := 0, 0
	for s, k := range c.counts {
		if k > 0 {
			last = s
			used++
		}
	}
	c.text = c.text[:0]
	if used == 1 && n > 2 {
		c.mode, c.symbol, c.use = oneSymbol, uint8(last), nil
		return
	}
	c.mode, c.use = predefined, &c.fixed
	cost := math.Inf(1)
	if last < len(c.norm) {
		cost = c.fixed.bits(&c.counts, last)
	}
	if c.before {
		t := &c.tables[c.made^1]
		if k := t.bits(&c.counts, last); k < cost {
			c.mode, c.use, cost = repeated, t, k
		}
	}
	if used == 1 {
		if cost > 8 {
			c.mode, c.symbol, c.use = oneSymbol, uint8(last), nil
		}
		return
	}
	// A description takes some bits for each symbol.
	if cost < float64(4*used) {
		return
	}
	log := uint8(min(int(c.most), max(minLog, bits.Len(uint(n))-2, bits.Len(uint(used))+1)))
	t := &c.tables[c.made]
	t.normalize(&c.counts, last, n, log)
	c.text = t.describe(c.text, last)
	if t.bits(&c.counts, last)+float64(8*len(c.text)) < cost {
		t.build(last)
		c.mode, c.use = described, t
	} else {
		c.text = c.text[:0]
	}
}

// written notes that the block under way was written as chosen.
func (c *coder) written() {
	switch c.mode {
	case described:
		c.made ^= 1
		c.before = true
	case predefined, oneSymbol:
		c.before = false
	}
}

// state is a coder's state within a block; oneSymbol needs none.
func (c *coder) table() *table {
	if c.mode != oneSymbol {
		return c.use
	}
	// A table of one state: no bits are written.
	t := &c.tables[c.made]
	t.log = 0
	t.symbols[c.symbol].bits, t.symbols[c.symbol].state = 0, 0
	t.next[0], t.next[1] = 1, 1
	return t
}

// count makes the codes of the sequences and counts them.
func (e *Encoder) count() {
	e.ll.counts, e.ml.counts, e.of.counts = [maxSymbols]uint32{}, [maxSymbols]uint32{}, [maxSymbols]uint32{}
	coded := e.coded[:len(e.sequences)]
	for i := range coded {
		s := &e.sequences[i]
		l, m, o := literalsCode(s.literals)%64, matchCode(s.match)%64, uint32(bits.Len32(s.offset)-1)%32
		e.ll.counts[l]++
		e.ml.counts[m]++
		e.of.counts[o]++
		xl, xm := uint32(literalsExtra[l]), uint32(matchExtra[m])
		c := &coded[i]
		c.extra = uint64(s.literals&(1<<(xl&31)-1)) | uint64(s.match&(1<<(xm&31)-1))<<(xl&63) | uint64(s.offset&(1<<o-1))<<((xl+xm)&63)
		c.bits = xl + xm + o
		c.codes = l | m<<8 | o<<16
	}
}

// appendSequences appends the section of sequences (section 3.1.1.3.2).
func (e *Encoder) appendSequences(out []byte) []byte {
	n := len(e.sequences)
	if n == 0 {
		return append(out, 0)
	}
	// There are no more than maxSequences, so that two bytes are enough.
	if n < 128 {
		out = append(out, byte(n))
	} else {
		out = append(out, byte(n>>8+128), byte(n))
	}
	e.count()
	e.ll.choose(n)
	e.of.choose(n)
	e.ml.choose(n)
	out = append(out, e.ll.mode<<6|e.of.mode<<4|e.ml.mode<<2)
	for _, c := range []*coder{&e.ll, &e.of, &e.ml} {
		if c.mode == oneSymbol {
			out = append(out, c.symbol)
		}
		out = append(out, c.text...)
	}
	return e.appendBits(out)
}

// sequenceBytes is how many bytes the bits of a sequence take at most.
const sequenceBytes = 11

// change writes a symbol to the state: it returns the next state, and bits of this one, and how many.
func (t *table) change(state uint32, symbol uint32) (next, v, n uint32) {
	x := &t.symbols[symbol%64]
	n = (state + x.bits) >> 16
	return uint32(t.next[(state>>(n&31)+uint32(x.state))%(1<<maxLog)]), state & (1<<(n&31) - 1), n
}

// appendBits appends the bits of the sequences, the last one first.
func (e *Encoder) appendBits(out []byte) []byte {
	at := len(out)
	coded := e.coded[:len(e.sequences)]
	out = slices.Grow(out, len(coded)*sequenceBytes+32)
	buf := out[:cap(out)]
	ll, ml, of := e.ll.table(), e.ml.table(), e.of.table()
	s := &coded[len(coded)-1]
	sl, sm, so := ll.begin(uint8(s.codes)), ml.begin(uint8(s.codes>>8)), of.begin(uint8(s.codes>>16))
	acc, n := s.extra, uint(s.bits)
	binary.LittleEndian.PutUint64(buf[at:], acc)
	at += int(n >> 3)
	acc >>= n &^ 7 & 63
	n &= 7
	for i := len(coded) - 2; i >= 0; i-- {
		s := &coded[i]
		var v, k uint32
		so, v, k = of.change(so, s.codes>>16)
		states, all := uint64(v), k
		sm, v, k = ml.change(sm, s.codes>>8)
		states |= uint64(v) << (all & 63)
		all += k
		sl, v, k = ll.change(sl, s.codes)
		states |= uint64(v) << (all & 63)
		all += k
		acc |= states << (n & 63)
		n += uint(all)
		if x := uint(s.bits); n+x < 64 {
			acc |= s.extra << (n & 63)
			n += x
		} else {
			binary.LittleEndian.PutUint64(buf[at:], acc)
			at += int(n >> 3)
			acc >>= n &^ 7 & 63
			n &= 7
			acc |= s.extra << (n & 63)
			n += x
		}
		binary.LittleEndian.PutUint64(buf[at:], acc)
		at += int(n >> 3)
		acc >>= n &^ 7 & 63
		n &= 7
	}
	for _, f := range []struct {
		t     *table
		state uint32
	}{{ml, sm}, {of, so}, {ll, sl}} {
		acc |= uint64(f.state&(1<<f.t.log-1)) << n
		n += uint(f.t.log)
		binary.LittleEndian.PutUint64(buf[at:], acc)
		at += int(n >> 3)
		acc >>= n &^ 7 & 63
		n &= 7
	}
	// A bit that marks the end.
	buf[at] = byte(acc | 1<<n)
	return buf[:at+1]
}
