package squashfs

import (
	"encoding/binary"
	"math/bits"
)

// lz4Encoder compresses blocks in the format of LZ4 (lz4_Block_format.md of that project).
// It looks for matches as the fast compressor there does, but for matches of six bytes,
// and hurries on sooner where there are none; a larger table makes up for both. What comes
// out is not longer, and the packages for Go take twice the time. One goroutine at a time
// uses it.
type lz4Encoder struct {
	table [1 << lz4TableBits]uint32 // the last position of a hash
}

const (
	lz4TableBits = 14
	lz4SkipBits  = 4 // after so many misses, as a power of two, the steps become longer

	// Of the format:
	lz4MinMatch  = 4
	lz4LastBytes = 5  // the last ones are literals
	lz4LastMatch = 12 // no match begins nearer to the end
	lz4Window    = 1<<16 - 1
	lz4Run       = 15 // a length that continues after the token
)

// lz4Hash hashes the first six bytes of v.
func lz4Hash(v uint64) uint32 { return uint32(v << 16 * 227718039650203 >> (64 - lz4TableBits)) }

// encode writes the compressed form of src to dst and returns its length, 0 where it is
// longer than dst.
func (e *lz4Encoder) encode(dst, src []byte) int {
	le := binary.LittleEndian
	table := &e.table
	d, anchor := 0, 0
	if len(src) > lz4LastMatch {
		clear(table[:])
		last, end := len(src)-lz4LastMatch, len(src)-lz4LastBytes
		// Position 0 is in the whole table: a candidate counts only if its bytes are equal.
		s, misses := 1, 1<<lz4SkipBits
		seq := le.Uint64(src[s:])
		for {
			h := lz4Hash(seq)
			candidate := int(table[h])
			for {
				// the next position is looked up before it is known whether it is needed
				next := s + misses>>lz4SkipBits
				misses++
				if next > last {
					return lz4Literals(dst, d, src[anchor:], 0)
				}
				table[h] = uint32(s)
				if le.Uint32(src[candidate:]) == uint32(seq) && s-candidate <= lz4Window {
					break
				}
				s = next
				seq = le.Uint64(src[s:])
				h = lz4Hash(seq)
				candidate = int(table[h])
			}
			for s > anchor && candidate > 0 && src[s-1] == src[candidate-1] {
				s--
				candidate--
			}
		again:
			literals, offset := s-anchor, s-candidate
			s += lz4MinMatch
			n := lz4Common(src[s:end], src[candidate+lz4MinMatch:])
			s += n
			if o := dst[d:]; literals < lz4Run && len(o) >= 24 && len(src)-anchor >= 16 {
				o[0] = byte(literals<<4 | min(n, lz4Run))
				from := src[anchor:]
				le.PutUint64(o[1:], le.Uint64(from))
				if literals > 8 {
					le.PutUint64(o[9:], le.Uint64(from[8:]))
				}
				le.PutUint16(o[1+literals:], uint16(offset))
				d += 3 + literals
			} else {
				if d = lz4Literals(dst, d, src[anchor:anchor+literals], min(n, lz4Run)); d == 0 || d+2 > len(dst) {
					return 0
				}
				le.PutUint16(dst[d:], uint16(offset))
				d += 2
			}
			if n >= lz4Run {
				if d+n/255+1 > len(dst) {
					return 0
				}
				d = lz4Length(dst, d, n-lz4Run)
			}
			anchor = s
			if s >= last {
				break
			}
			table[lz4Hash(le.Uint64(src[s-2:]))] = uint32(s - 2)
			seq = le.Uint64(src[s:])
			h = lz4Hash(seq)
			candidate = int(table[h])
			table[h] = uint32(s)
			if le.Uint32(src[candidate:]) == uint32(seq) && s-candidate <= lz4Window {
				goto again
			}
			misses = 1 << lz4SkipBits
			s++
			seq = le.Uint64(src[s:])
		}
	}
	return lz4Literals(dst, d, src[anchor:], 0)
}

// lz4Common returns how many bytes of a and b are the same from their beginnings on. b is
// not shorter than a.
func lz4Common(a, b []byte) int {
	n := 0
	b = b[:len(a)]
	for len(a)-n >= 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)>>3
		}
		n += 8
	}
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}

// lz4Literals writes a token, with the length of a match in its lower half, and literals.
func lz4Literals(dst []byte, d int, literals []byte, match int) int {
	n := len(literals)
	if d+1+n/255+1+n > len(dst) {
		return 0
	}
	dst[d] = byte(min(n, lz4Run)<<4 | match)
	d++
	if n >= lz4Run {
		d = lz4Length(dst, d, n-lz4Run)
	}
	return d + copy(dst[d:], literals)
}

// lz4Length writes what a length is more than fits in the token.
func lz4Length(dst []byte, d, n int) int {
	for ; n >= 255; n -= 255 {
		dst[d] = 255
		d++
	}
	dst[d] = byte(n)
	return d + 1
}
