package deflate

import (
	"encoding/binary"
	"math/bits"
)

// parseCarefully makes the sequences of a block from src[i:] and returns where it ends.
func (e *Encoder) parseCarefully(src []byte, i int) int {
	last, lastDist := 0, 0 // the match at i-1, not yet taken: the one at i may be longer
	end := len(src) - tail
	e.begin(i)
	for i < end && e.room(i) > 0 {
		v := binary.LittleEndian.Uint64(src[i:])
		length, distance := e.look(src, i, v, last)
		switch {
		case length > last: // better than the one before, if any
			last, lastDist = length, distance
			i++
		case last > 0:
			e.quiet = 0
			e.add(i-1, last, lastDist)
			e.storeMatch(src, i+1, min(e.anchor, end), last > longMatch && lastDist <= shortPeriod)
			i, last = e.anchor, 0
		default:
			// Where nothing matched for long, fewer places are looked at.
			e.quiet++
			i = min(i+1+min(e.quiet/quietBytes, maxSkip), max(end, i+1))
		}
	}
	if last > 0 {
		e.add(i-1, last, lastDist)
		i = e.anchor
	}
	if i >= end {
		i = len(src)
	}
	return i
}

// look stores the place i, which begins with v, and returns the best match there that is
// longer than last.
func (e *Encoder) look(src []byte, i int, v uint64, last int) (length, distance int) {
	h3, h4 := uint32(v)<<8*hashFactor, uint32(v)*hashFactor
	p3, p4 := &e.head3[h3>>(32-hashBits3)], &e.head4[h4>>(32-hashBits4)]
	e3, e4 := *p3, *p4
	*p3, *p4 = entry(h3<<hashBits3&^0xffff|uint32(uint16(i))), entry(h4<<hashBits4&^0xffff|uint32(uint16(i)))
	e.prev[i&(maxDistance-1)] = uint16(e4)
	if last >= lazyMatch {
		return 0, 0
	}
	reach := reachAt(i)
	if d4 := uint32(uint16(i-1) - uint16(e4)); d4 < reach && (uint32(e4)^h4<<hashBits4)>>16 == 0 {
		length, distance = e.find(src, i, v, int(d4)+1, last, int(reach))
	}
	if length == 0 && last == 0 {
		d3 := uint32(uint16(i-1) - uint16(e3))
		// The rest of the hash is equal, too.
		if (uint32(e3)^h3<<hashBits3)>>16 == 0 && d3 < min(reach, uint32(e.far[minMatch]), window) {
			if d := int(d3) + 1; (binary.LittleEndian.Uint32(src[i-d:])^uint32(v))<<8 == 0 {
				length, distance = minMatch, d
			}
		}
	}
	return length, distance
}

// storeMatch stores the places of a match from i on. Of a run of few bytes only those at
// the end are stored.
func (e *Encoder) storeMatch(src []byte, i, end int, run bool) {
	if run {
		i = max(i, end-longMatch)
	}
	for ; i < end; i++ {
		v := uint32(binary.LittleEndian.Uint64(src[i:]))
		h3, h4 := v<<8*hashFactor, v*hashFactor
		p3, p4 := &e.head3[h3>>(32-hashBits3)], &e.head4[h4>>(32-hashBits4)]
		e.prev[i&(maxDistance-1)] = uint16(*p4)
		*p3, *p4 = entry(h3<<hashBits3&^0xffff|uint32(uint16(i))), entry(h4<<hashBits4&^0xffff|uint32(uint16(i)))
	}
}

// find returns the longest match at i that is longer than least, of four bytes at least;
// none has no length. v are the bytes there; the first candidate is d bytes before, and
// farthest is the longest distance.
func (e *Encoder) find(src []byte, i int, v uint64, d, least, farthest int) (length, distance int) {
	n := min(len(src)-i, maxMatch)
	best := max(least, minMatch)
	if best >= n {
		return 0, 0
	}
	tries := e.chain
	if least >= goodMatch {
		tries /= 4
	}
	for before := 0; d > before && d <= farthest; {
		before = d
		at := i - d
		for d > int(e.far[uint8(best)+1]) {
			best++
		}
		if i+best >= len(src) {
			break
		}
		if binary.LittleEndian.Uint32(src[at+best-3:]) == binary.LittleEndian.Uint32(src[i+best-3:]) {
			x := binary.LittleEndian.Uint64(src[at:]) ^ v
			got := bits.TrailingZeros64(x) / 8
			if x == 0 {
				got = same(src[at:], src[i:i+n])
			}
			if d > window {
				got = min(got, toPieceEnd(i))
			}
			if got > best {
				best, length, distance = got, min(got, n), d
				if got >= niceMatch || got >= n {
					break
				}
			}
		}
		if tries--; tries <= 0 {
			break
		}
		d = int(uint16(i) - e.prev[at&(maxDistance-1)])
	}
	return length, distance
}

// same returns how many bytes a and b have in common at their start; b is not longer.
func same(a, b []byte) int {
	n := 0
	for len(b)-n >= 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
		n += 8
	}
	for n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
