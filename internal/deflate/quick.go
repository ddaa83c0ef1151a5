package deflate

import (
	"encoding/binary"
	"math/bits"
)

const (
	// quickBits4 and quickBits7 are the sizes of the tables of the quick parser.
	quickBits4 = 15
	quickBits7 = 13
	// smallMask4 and smallMask7 are what small buffers use of the tables: clearing all of them takes longer than the search.
	smallMask4 = 1<<12 - 1
	smallMask7 = 1<<11 - 1
	// factor7 is a prime of 56 bits.
	factor7 = 58295818150454627

	// After each 1<<quickSkip bytes without a match one more byte is passed over from
	// one place to the next.
	quickSkip = 6
	// A match of seven bytes that is as long as enough7 is taken, one of four that is as long
	// as enough4.
	enough7 = 12
	enough4 = 16
	// quickStored is up to where in a match all its places are stored.
	quickStored = 16
	// quickTail is how many bytes at the end no match starts in: words are read from src.
	quickTail = 16
)

// quickTables are where a hash of four bytes was seen last, and one of seven bytes the
// last two times, modulo 64 KiB: the older place in the upper half. What is too old is
// recognised by its distance or by its bytes.
type quickTables struct {
	four  [1 << quickBits4]uint16
	seven [1 << quickBits7]uint32

	mask4, mask7 uint32 // of what is used of them
}

// reset empties the tables for a buffer.
func (t *quickTables) reset(small bool) {
	t.mask4, t.mask7 = 1<<quickBits4-1, 1<<quickBits7-1
	if small {
		t.mask4, t.mask7 = smallMask4, smallMask7
	}
	clear(t.four[:t.mask4+1])
	clear(t.seven[:t.mask7+1])
}

func (t *quickTables) slot4(v uint64) *uint16 {
	return &t.four[uint32(v)*hashFactor>>(32-quickBits4)&t.mask4]
}

func (t *quickTables) slot7(v uint64) *uint32 {
	return &t.seven[uint32(v<<8*factor7>>(64-quickBits7))&t.mask7]
}

// store stores a place by its first eight bytes.
func (t *quickTables) store(v uint64, i int) {
	s7 := t.slot7(v)
	*t.slot4(v), *s7 = uint16(i), *s7<<16|uint32(uint16(i))
}

// parseQuick makes the sequences of a block from src[i:] and returns where it ends.
func (e *Encoder) parseQuick(src []byte, i int) int {
	end := len(src) - quickTail
	e.begin(i)
	for i < end && e.room(i) > 0 {
		first := i &^ (piece - 1)
		p := span{first: max(first, e.anchor), oldest: max(0, first-window), limit: min(end, first+piece, i+e.room(i)), skipFrom: e.anchor}
		var length, distance int
		i, length, distance = e.quick.next(src, i, p, min(uint32(e.far[4]), maxDistance))
		if length == 0 {
			continue
		}
		start := i
		i += length
		e.add(start, length, distance)
		if i < end {
			e.quick.storeMatch(src, start, i)
		}
	}
	if i >= end {
		i = len(src)
	}
	return i
}

// storeMatch stores the places in a match.
func (t *quickTables) storeMatch(src []byte, start, end int) {
	p, stop := start+1, min(end-2, start+quickStored)
	for ; p+1 < stop; p += 2 {
		v := binary.LittleEndian.Uint64(src[p:])
		t.store(v, p)
		t.store(v>>8, p+1)
	}
	if p < stop {
		t.store(binary.LittleEndian.Uint64(src[p:]), p)
	}
	v := binary.LittleEndian.Uint64(src[end-2:])
	t.store(v, end-2)
	*t.slot4(v >> 8) = uint16(end - 1)
}

// span is where matches may lie.
type span struct {
	first    int // they begin here at the earliest
	limit    int // and before this
	oldest   int // where they reach back to
	skipFrom int // the end of the match before
}

// next returns the next match from i on, and the limit and no length if there is none.
// Matches of less than seven bytes are taken up to a distance of far4.
func (t *quickTables) next(src []byte, i int, p span, far4 uint32) (at, length, distance int) {
	for i < p.limit {
		v := binary.LittleEndian.Uint64(src[i:])
		s4, s7 := t.slot4(v), t.slot7(v)
		last7 := *s7
		d4, d7, older7 := uint32(uint16(i-1)-*s4), uint32(uint16(i-1)-uint16(last7)), uint32(uint16(i-1)-uint16(last7>>16))
		*s4, *s7 = uint16(i), last7<<16|uint32(uint16(i))
		reach := min(uint32(i-p.oldest), maxDistance)
		if d7 < reach {
			if x := binary.LittleEndian.Uint64(src[i-1-int(d7):]) ^ v; x<<8 == 0 {
				at, length, distance = p.extend(src, i, int(d7)+1, x)
				if length < enough7 && older7 < reach {
					if x := binary.LittleEndian.Uint64(src[i-1-int(older7):]) ^ v; x<<8 == 0 {
						if at, n, d := p.extend(src, i, int(older7)+1, x); n > length {
							return at, n, d
						}
					}
				}
				return at, length, distance
			}
		}
		if d4 < min(reach, far4) {
			if x := binary.LittleEndian.Uint64(src[i-1-int(d4):]) ^ v; uint32(x) == 0 {
				if at, length, distance = p.extend(src, i, int(d4)+1, x); length > 0 {
					if length < enough4 && i+1 < p.limit {
						if later, n, d := t.better(src, i+1, p, min(reach, far4), reach); n > length {
							return later, n, d
						}
					}
					return at, length, distance
				}
			}
		}
		i += 1 + (i-p.skipFrom)>>quickSkip
	}
	return p.limit, 0, 0
}

// better returns a match at i, behind a place with a short one: of seven bytes if there
// is one, else of four.
func (t *quickTables) better(src []byte, i int, p span, reach4, reach7 uint32) (at, length, distance int) {
	v := binary.LittleEndian.Uint64(src[i:])
	if d := uint32(uint16(i-1) - uint16(*t.slot7(v))); d < reach7 {
		if x := binary.LittleEndian.Uint64(src[i-1-int(d):]) ^ v; x<<8 == 0 {
			return p.extend(src, i, int(d)+1, x)
		}
	}
	if d := uint32(uint16(i-1) - *t.slot4(v)); d < reach4 {
		if x := binary.LittleEndian.Uint64(src[i-1-int(d):]) ^ v; uint32(x) == 0 {
			return p.extend(src, i, int(d)+1, x)
		}
	}
	return i, 0, 0
}

// extend returns the whole match of which the bytes at i are a part; x is what differs
// in its first eight.
func (p span) extend(src []byte, i, distance int, x uint64) (at, length, d int) {
	length = bits.TrailingZeros64(x) / 8
	if x == 0 {
		length = 8 + same(src[i-distance+8:], src[i+8:min(len(src), i+longestRun)])
	}
	if distance > window {
		// A reader may lose what is farther back at the end of the piece.
		length = min(length, toPieceEnd(i))
		if length < 4 {
			return i, 0, 0
		}
	}
	for i > p.first && i-distance > p.oldest && src[i-1] == src[i-1-distance] {
		i--
		length++
	}
	return i, length, distance
}
