package dmg

import (
	"encoding/binary"
	"errors"
	"io"
	"math/bits"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/chunks"
)

var (
	errDistance = errors.New("a copy from before the start")
	errLZFSE    = errors.New("damaged LZFSE data")
)

var le = binary.LittleEndian

// Kinds of LZFSE blocks, as their first four bytes read.
const (
	blockEnd    = 0x24787662 // bvx$
	blockRaw    = 0x2d787662 // bvx-
	blockTables = 0x31787662 // bvx1: tables as they are, which no encoder writes
	blockFSE    = 0x32787662 // bvx2
	blockLZVN   = 0x6e787662 // bvxn
)

// Sizes of the alphabets, of the tables of states, and of blocks.
const (
	symbolsL, statesL     = 20, 64
	symbolsM, statesM     = 20, 64
	symbolsD, statesD     = 64, 256
	symbolsLit, statesLit = 256, 1024
	symbolsAll            = symbolsL + symbolsM + symbolsD + symbolsLit

	maxMatches  = 10000
	maxLiterals = 4 * maxMatches
)

// decodeLZFSE decodes a stream of blocks: literals and matches coded with finite state
// entropy, or LZVN, or plain bytes. It returns how many bytes of dst it filled.
func decodeLZFSE(dst, src []byte) (n int, err error) {
	var d *fseDecoder
	for {
		if len(src) < 4 {
			return n, io.ErrUnexpectedEOF
		}
		kind := le.Uint32(src)
		if kind == blockEnd {
			return n, nil
		}
		if len(src) < 12 {
			return n, io.ErrUnexpectedEOF
		}
		raw := int64(le.Uint32(src[4:]))
		if raw > int64(len(dst)-n) {
			return n, chunks.ErrLong
		}
		end := n + int(raw)
		switch kind {
		case blockRaw:
			if src = src[8:]; raw > int64(len(src)) {
				return n, io.ErrUnexpectedEOF
			}
			n += copy(dst[n:], src[:raw])
			src = src[raw:]
		case blockLZVN:
			size := int64(le.Uint32(src[8:]))
			if src = src[12:]; size > int64(len(src)) {
				return n, io.ErrUnexpectedEOF
			}
			n, err = decodeLZVN(dst[:end], n, src[:size])
			src = src[size:]
		case blockFSE:
			if d == nil {
				d = new(fseDecoder)
			}
			n, src, err = d.block(dst[:end], n, src)
		case blockTables:
			return n, driver.Errorf(driver.ErrUnsupported, "LZFSE blocks with tables that are not compressed are not supported")
		default:
			return n, errLZFSE
		}
		if err == nil && n != end {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return n, err
		}
	}
}

// litState is what a state of the literals' table decodes to: a symbol, and the next
// state, delta plus k bits.
type litState struct {
	delta  int16
	symbol uint8
	k      uint8
}

// numState is the same for a number: base plus extra bits, which follow the k bits of
// the next state.
type numState struct {
	base  int32
	delta int16
	total uint8 // k and extra bits
	extra uint8
}

// fseDecoder holds the tables of one block.
type fseDecoder struct {
	freq     [symbolsAll]uint16
	lit      [statesLit]litState
	l        [statesL]numState
	m        [statesM]numState
	d        [statesD]numState
	literals [maxLiterals]byte
}

// block decodes one block behind the n bytes of dst, which it fills. It returns what
// follows the block.
func (f *fseDecoder) block(dst []byte, n int, src []byte) (int, []byte, error) {
	const fixed = 32
	if len(src) < fixed {
		return n, src, io.ErrUnexpectedEOF
	}
	p0, p1, p2 := le.Uint64(src[8:]), le.Uint64(src[16:]), le.Uint64(src[24:])
	field := func(v uint64, at, n uint) int { return int(v >> at & (1<<n - 1)) }
	literals, litBytes, matches := field(p0, 0, 20), field(p0, 20, 20), field(p0, 40, 20)
	lmdBytes, header := field(p1, 40, 20), field(p2, 0, 32)
	if literals > maxLiterals || matches > maxMatches || literals%4 != 0 || header < fixed {
		return n, src, errLZFSE
	}
	if header > len(src) || litBytes+lmdBytes > len(src)-header {
		return n, src, io.ErrUnexpectedEOF
	}
	if err := f.tables(src[fixed:header]); err != nil {
		return n, src, err
	}
	states := [4]int{field(p1, 0, 10), field(p1, 10, 10), field(p1, 20, 10), field(p1, 30, 10)}
	in, err := newBackward(src[header:header+litBytes], field(p0, 60, 3)-7)
	if err != nil {
		return n, src, err
	}
	if err := f.readLiterals(in, literals, states); err != nil {
		return n, src, err
	}
	src = src[header+litBytes:]
	if in, err = newBackward(src[:lmdBytes], field(p1, 60, 3)-7); err != nil {
		return n, src, err
	}
	n, err = f.execute(dst, n, in, f.literals[:literals], matches, field(p2, 32, 10), field(p2, 42, 10), field(p2, 52, 10))
	return n, src[lmdBytes:], err
}

func (f *fseDecoder) readLiterals(in backward, count int, s [4]int) error {
	for i := 0; i < count; i += 4 {
		for k := range 4 {
			e := &f.lit[s[k]]
			v, ok := in.pull(uint(e.k))
			next := int(e.delta) + v
			if !ok || uint(next) >= statesLit {
				return errLZFSE
			}
			s[k], f.literals[i+k] = next, e.symbol
		}
	}
	return nil
}

// execute appends what the matches say to the n bytes of dst.
func (f *fseDecoder) execute(dst []byte, n int, in backward, lit []byte, matches, sl, sm, sd int) (int, error) {
	if sl >= statesL || sm >= statesM {
		return n, errLZFSE
	}
	sd &= statesD - 1
	distance := 0
	for range matches {
		length, ok1 := in.number(f.l[:], &sl)
		match, ok2 := in.number(f.m[:], &sm)
		d, ok3 := in.number(f.d[:], &sd)
		if !ok1 || !ok2 || !ok3 || length > len(lit) {
			return n, errLZFSE
		}
		if length > len(dst)-n {
			return n, chunks.ErrLong
		}
		n += copy(dst[n:], lit[:length])
		lit = lit[length:]
		if d != 0 {
			distance = d
		}
		if match == 0 {
			continue
		}
		var err error
		if n, err = copyBack(dst, n, distance, match); err != nil {
			return n, err
		}
	}
	return n, nil
}

// tables makes the tables of states from the frequencies of the symbols as they are in
// the header. A block without any has no symbols.
func (f *fseDecoder) tables(src []byte) error {
	if err := f.frequencies(src); err != nil {
		return err
	}
	freq := f.freq[:]
	ok := numberTable(f.l[:], freq[:symbolsL], extraL)
	freq = freq[symbolsL:]
	ok = numberTable(f.m[:], freq[:symbolsM], extraM) && ok
	freq = freq[symbolsM:]
	ok = numberTable(f.d[:], freq[:symbolsD], extraD) && ok
	freq = freq[symbolsD:]
	clear(f.lit[:])
	at := 0
	ok = eachState(freq, statesLit, func(symbol int, k uint8, delta int) {
		f.lit[at] = litState{symbol: uint8(symbol), k: k, delta: int16(delta)}
		at++
	}) && ok
	if !ok {
		return errLZFSE
	}
	return nil
}

// frequencies decodes the numbers of the header: each has 2 to 14 bits, the lowest
// first.
func (f *fseDecoder) frequencies(src []byte) error {
	clear(f.freq[:])
	if len(src) == 0 {
		return nil
	}
	var acc uint64
	have := 0
	for i := range f.freq {
		for have < 14 && len(src) > 0 {
			acc |= uint64(src[0]) << have
			src, have = src[1:], have+8
		}
		v, n := frequency(uint32(acc))
		if n > have {
			return io.ErrUnexpectedEOF
		}
		f.freq[i] = uint16(v)
		acc, have = acc>>n, have-n
	}
	if len(src) > 0 || have >= 8 {
		return errLZFSE
	}
	return nil
}

// frequency decodes one number and tells how many bits it has.
func frequency(b uint32) (value uint32, n int) {
	switch {
	case b&3 == 0:
		return 0, 2
	case b&3 == 2:
		return 1, 2
	case b&7 == 1:
		return 2, 3
	case b&7 == 5:
		return 3, 3
	case b&7 == 3:
		return 4 + b>>3&3, 5
	case b&15 == 7:
		return 8 + b>>4&15, 8
	}
	return 24 + b>>4&1023, 14
}

// eachState calls fn for each state of a table of a power of two of states, in order. A
// symbol has as many states as it is frequent.
func eachState(freq []uint16, states int, fn func(symbol int, k uint8, delta int)) bool {
	sum := 0
	for symbol, v := range freq {
		n := int(v)
		if n == 0 {
			continue
		}
		if sum += n; sum > states {
			return false
		}
		k := bits.Len(uint(states)) - bits.Len(uint(n))
		few := states*2>>k - n // this many states of the symbol take k bits, the others one less
		for j := range n {
			if j < few {
				fn(symbol, uint8(k), (n+j)<<k-states)
			} else {
				fn(symbol, uint8(k-1), (j-few)<<(k-1))
			}
		}
	}
	return true
}

// numberTable makes a table of numbers: symbol i means those from a base on that
// extra(i) bits tell apart; the bases follow one another.
func numberTable(t []numState, freq []uint16, extra func(symbol int) uint8) bool {
	var base [symbolsD]int32
	for i := 1; i < len(freq); i++ {
		base[i] = base[i-1] + 1<<extra(i-1)
	}
	clear(t)
	at := 0
	return eachState(freq, len(t), func(symbol int, k uint8, delta int) {
		x := extra(symbol)
		t[at] = numState{base: base[symbol], delta: int16(delta), total: k + x, extra: x}
		at++
	})
}

// extraL, extraM and extraD are how many extra bits symbols have.
func extraL(i int) uint8 { return lastFour(i, [4]uint8{2, 3, 5, 8}) }
func extraM(i int) uint8 { return lastFour(i, [4]uint8{3, 5, 8, 11}) }
func extraD(i int) uint8 { return uint8(i / 4) }

func lastFour(i int, n [4]uint8) uint8 {
	if i < 16 {
		return 0
	}
	return n[i-16]
}

// backward reads bits from the end of p to its start.
type backward struct {
	p   []byte
	pos int // bits that are left
}

// newBackward starts at the end of p. unused, from -7 to 0, says how many of the
// highest bits of the last byte are none; they are zero.
func newBackward(p []byte, unused int) (backward, error) {
	b := backward{p: p, pos: len(p)*8 + unused}
	if b.pos < 0 || unused < 0 && p[len(p)-1]>>(8+unused) != 0 {
		return b, errLZFSE
	}
	return b, nil
}

// pull takes n bits, at most 32.
func (b *backward) pull(n uint) (int, bool) {
	b.pos -= int(n)
	if b.pos < 0 {
		return 0, false
	}
	at := b.pos >> 3
	var v uint64
	if at+8 <= len(b.p) {
		v = le.Uint64(b.p[at:])
	} else {
		for i := len(b.p) - 1; i >= at; i-- {
			v = v<<8 | uint64(b.p[i])
		}
	}
	return int(v >> (b.pos & 7) & (1<<n - 1)), true
}

// number decodes a number with a table, from a state that it replaces.
func (b *backward) number(t []numState, state *int) (int, bool) {
	e := &t[*state]
	v, ok := b.pull(uint(e.total))
	next := int(e.delta) + v>>e.extra
	if !ok || uint(next) >= uint(len(t)) {
		return 0, false
	}
	*state = next
	return int(e.base) + v&(1<<e.extra-1), true
}
