package zstd

import (
	"encoding/binary"
	"math/bits"
)

const (
	longBits  = 14
	shortBits = 15

	// factor8 and factor5 are primes of 64 and 40 bits.
	factor8 = 0xcf1bbcdcb7a56463
	factor5 = 889523592379

	// After each 1<<skipBits bytes without a match one more byte is passed over from one
	// place to the next.
	skipBits = 7

	// tail is how many bytes at the end no match starts in: words are read there.
	tail = 12

	// slack is how many bytes may be read or written behind the end of a buffer.
	slack = 32
)

// window is what matches are sought in.
type window [MaxSize + slack]byte

func (w *window) load64(i int) uint64 {
	i &= MaxSize - 1
	return binary.LittleEndian.Uint64(w[i : i+8])
}

func (w *window) load32(i int) uint32 {
	i &= MaxSize - 1
	return binary.LittleEndian.Uint32(w[i : i+4])
}

// same returns how many bytes are equal from a and b on, at least up to end, which is behind b.
func (w *window) same(a, b, end int) int {
	n := 0
	for b+n < end {
		if x := w.load64(a+n) ^ w.load64(b+n); x != 0 {
			return n + bits.TrailingZeros64(x)>>3
		}
		n += 8
	}
	return n
}

// position is where something is in a window.
type position interface{ uint16 | uint32 }

// tables are where a hash of eight bytes was seen last, and one of five bytes.
type tables[P position] struct {
	long  [1 << longBits]P
	short [1 << shortBits]P
}

func (t *tables[P]) slot8(v uint64) *P { return &t.long[v*factor8>>(64-longBits)] }

func (t *tables[P]) slot5(v uint64) *P { return &t.short[v<<24*factor5>>(64-shortBits)] }

// store stores a place by its first eight bytes.
func (t *tables[P]) store(v uint64, i int) { *t.slot8(v), *t.slot5(v) = P(i), P(i) }

// parse makes the sequences and literals of a block that starts at i, in a buffer of a size, and returns where it ends.
func (e *Encoder) parse(i, size int) int {
	end := min(size, i+maxBlock)
	if e.isNear {
		return parse(e, e.near, i, end)
	}
	return parse(e, e.far, i, end)
}

// next returns where the next match starts from i on, where it repeats, and its length; 0 if
// there is none before limit. The length may be too great behind the end.
func (t *tables[P]) next(w *window, i, limit, r0, anchor int) (at, from, length int) {
	for i < limit {
		v := w.load64(i)
		long, short := t.slot8(v), t.slot5(v)
		p, c := int(*long), int(*short)
		*long, *short = P(i), P(i)
		if uint32(v>>8) == w.load32(i+1-r0) {
			i++
			return i, i - r0, 4 + w.same(i+4-r0, i+4, limit+tail)
		}
		if w.load64(p) == v {
			return i, p, 8 + w.same(p+8, i+8, limit+tail)
		}
		if x := w.load64(c) ^ v; uint32(x) == 0 {
			length = bits.TrailingZeros64(x) >> 3
			if x == 0 {
				length = 8 + w.same(c+8, i+8, limit+tail)
			}
			v = w.load64(i + 1)
			if q := int(*t.slot8(v)); w.load64(q) == v {
				if n := 8 + w.same(q+8, i+9, limit+tail); n > length {
					return i + 1, q, n
				}
			}
			return i, c, length
		}
		i += 1 + (i-anchor)>>skipBits
	}
	return i, 0, 0
}

// parse makes sequences from the bytes from i to end of the window, with matches anywhere before, and
// returns where they end.
func parse[P position](e *Encoder, t *tables[P], i, end int) int {
	w, sequences, literals := &e.window, e.sequences[:cap(e.sequences)], &e.literals
	made, copied := 0, 0
	r0, r1, r2 := int(e.repeats[0]), int(e.repeats[1]), int(e.repeats[2])
	anchor := i
	if i == 0 {
		i = 1 // 0 is in the tables from the start
	}
	limit := end - tail
	for i < limit {
		var from, length int
		i, from, length = t.next(w, i, limit, r0, anchor)
		if length == 0 {
			break
		}
		distance := i - from
		if from >= 8 {
			n := min(bits.LeadingZeros64(w.load64(i-8)^w.load64(from-8))>>3, i-anchor)
			i -= n
			length += n
		}
		length = min(length, end-i)
		n := i - anchor
		if n <= 16 {
			*(*[16]byte)(literals[copied : copied+16]) = *(*[16]byte)(w[anchor : anchor+16])
		} else {
			copy(literals[copied:copied+n], w[anchor:i])
		}
		copied += n
		// Offsets used before have short values.
		next1, next2 := r0, r1
		empty := 0
		if n == 0 {
			empty = 1
		}
		value := distance + 3
		if distance == r2 {
			value = 3 - empty
		}
		if distance == r1 {
			value = 2 - empty
			next2 = r2
		}
		if distance == r0 && n > 0 {
			value = 1
			next1, next2 = r1, r2
		}
		r0, r1, r2 = distance, next1, next2
		sequences[made] = sequence{literals: uint32(n), match: uint32(length - minMatch), offset: uint32(value)}
		made++
		start := i
		i += length
		anchor = i
		if i >= limit {
			break
		}
		// Some places in the match.
		t.store(w.load64(start+1), start+1)
		t.store(w.load64(start+2), start+2)
		t.store(w.load64(start+3), start+3)
		v := w.load64(i - 2)
		*t.slot8(v) = P(i - 2)
		*t.slot5(v >> 8) = P(i - 1)
		for r1 <= i && w.load32(i-r1) == w.load32(i) {
			n := min(4+w.same(i+4-r1, i+4, end), end-i)
			t.store(w.load64(i), i)
			sequences[made] = sequence{match: uint32(n - minMatch), offset: 1}
			r0, r1 = r1, r0
			made++
			i += n
			anchor = i
			if i >= limit || made >= maxSequences {
				break
			}
		}
		if made >= maxSequences {
			break
		}
	}
	e.repeats = [3]uint32{uint32(r0), uint32(r1), uint32(r2)}
	if made < maxSequences {
		copied += copy(literals[copied:], w[anchor:end])
		anchor = end
	}
	e.sequences, e.copied = sequences[:made], copied
	return anchor
}
