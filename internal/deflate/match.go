package deflate

import (
	"encoding/binary"
	"math"
	"math/bits"
)

const (
	windowBits = 12
	window     = 1 << windowBits
	minMatch   = 3
	maxMatch   = 258

	// How hard matches are sought: how many candidates of four equal bytes are compared,
	// a quarter of them once a match of goodMatch is there; one of niceMatch ends the
	// search, and one of lazyMatch is taken without a look at the next byte.
	maxChain  = 24
	goodMatch = 8
	niceMatch = 64
	lazyMatch = 16

	// matchBits is about what a match costs, in bits, but for those of its distance.
	matchBits = 4

	// blockTokens is how many tokens share a pair of codes.
	blockTokens = 10 << 10

	// Of repeats of up to shortPeriod bytes only longMatch places at the end are stored:
	// those before are like them.
	shortPeriod = 8
	longMatch   = 32

	// After each quietBytes places without a match one more byte is passed over from one
	// place to the next, up to maxSkip.
	quietBytes = 512
	maxSkip    = 7

	hashBits3  = 13
	hashBits4  = 13
	hashFactor = 2654435761

	// tail is how many bytes at the end no match starts in: words are read from src.
	tail = 8
)

// token is a literal byte, or a match with its length and distance.
type token uint32

const matchFlag token = 1 << 31

func literal(b byte) token { return token(b) }

func match(length, distance int) token {
	return matchFlag | token(length-minMatch)<<16 | token(distance-1)
}

func (t token) distance() int { return int(t&0xffff) + 1 }

// entry is where a hash was seen last, modulo 64 KiB, below the rest of the hash. What is
// too old is recognised by its distance, or else by its bytes.
type entry uint32

// Encoder compresses buffers, one at a time. The zero value is ready for use.
type Encoder struct {
	head3 [1 << hashBits3]entry // by the hash of three bytes
	head4 [1 << hashBits4]entry // by the hash of four
	prev  [window]uint16        // for each position the one before it in head4

	// far is, by the length of a match, the longest distance at which it takes fewer bits
	// than its bytes one by one.
	far   [maxMatch + 2]int32
	quiet int // places without a match since the last one
	chain int // maxChain, less where matches rarely are

	tokens []token
	lits   [286]int32
	dists  [30]int32
	blocks [2]dynamicBlock
	w      bitWriter
}

// Append appends src, compressed, to dst. It gives up and returns dst once more than
// limit bytes would be appended; ok tells which. src has less than 1 GiB.
func (e *Encoder) Append(dst, src []byte, limit int) (out []byte, ok bool) {
	clear(e.head3[:])
	clear(e.head4[:])
	if e.tokens == nil {
		e.tokens = make([]token, 0, blockTokens+maxMatch)
	}
	e.w = bitWriter{out: dst}
	limit += len(dst)
	e.tokens, e.quiet = e.tokens[:0], 0
	e.price(src)
	n := len(src)
	for i := 0; ; {
		i = e.parse(src, i)
		e.flush(src[e.w.start:i], i == n)
		e.w.start = i
		if i == n || len(e.w.out) > limit {
			break
		}
	}
	e.w.align()
	out, e.w.out = e.w.out, nil
	if len(out) > limit {
		return dst, false
	}
	return out, true
}

// price derives from the entropy of src which matches are worth it.
func (e *Encoder) price(src []byte) {
	// Two tables, so that an equal byte does not wait for the one before.
	var counts, odd [256]int32
	rest := src
	for ; len(rest) >= 8; rest = rest[8:] {
		v := binary.LittleEndian.Uint64(rest)
		counts[uint8(v)]++
		odd[uint8(v>>8)]++
		counts[uint8(v>>16)]++
		odd[uint8(v>>24)]++
		counts[uint8(v>>32)]++
		odd[uint8(v>>40)]++
		counts[uint8(v>>48)]++
		odd[uint8(v>>56)]++
	}
	for _, b := range rest {
		counts[b]++
	}
	for b, n := range odd {
		counts[b] += n
	}
	perByte, all := 0.0, float64(len(src))
	for _, n := range counts {
		if n > 0 {
			perByte += float64(n) / all * math.Log2(all/float64(n))
		}
	}
	perByte = max(perByte, 1) // no code is shorter
	e.chain = maxChain
	if perByte < 2.5 {
		e.chain /= 4
	}
	for l := range e.far {
		e.far[l] = window
		if bits := float64(l)*perByte - matchBits; bits < windowBits {
			e.far[l] = int32(math.Exp2(bits))
		}
	}
}

// parse makes the tokens of a block from src[i:] and returns where it ends.
func (e *Encoder) parse(src []byte, i int) int {
	last, lastDist := 0, 0 // the match at i-1, not yet taken: the one at i may be longer
	end := len(src) - tail
	tokens := e.tokens[:0]
	for i < end && len(tokens) < blockTokens {
		v := binary.LittleEndian.Uint64(src[i:])
		h3, h4 := uint32(v)<<8*hashFactor, uint32(v)*hashFactor
		p3, p4 := &e.head3[h3>>(32-hashBits3)], &e.head4[h4>>(32-hashBits4)]
		e3, e4 := *p3, *p4
		*p3, *p4 = entry(h3<<hashBits3&^0xffff|uint32(uint16(i))), entry(h4<<hashBits4&^0xffff|uint32(uint16(i)))
		e.prev[i&(window-1)] = uint16(e4)
		length, distance := 0, 0
		if last < lazyMatch {
			// The distance is less than the window and the rest of the hash is equal.
			d4 := uint32(uint16(i-1) - uint16(e4))
			if d4>>windowBits == 0 {
				length, distance = e.find(src, i, v, int(d4)+1, last)
			}
			if length == 0 && last == 0 {
				d3 := uint32(uint16(i-1) - uint16(e3))
				if (uint32(e3)^h3<<hashBits3)>>16|d3>>windowBits == 0 && int32(d3) < e.far[minMatch] {
					if d := int(d3) + 1; (binary.LittleEndian.Uint32(src[i-d:])^uint32(v))<<8 == 0 {
						length, distance = minMatch, d
					}
				}
			}
		}
		switch {
		case length > last: // better than the one before, if any
			if last > 0 {
				tokens = append(tokens, literal(src[i-1]))
			}
			last, lastDist = length, distance
			i++
		case last > 0:
			e.quiet = 0
			tokens = append(tokens, match(last, lastDist))
			stop := i - 1 + last
			i++
			if last > longMatch && lastDist <= shortPeriod {
				i = max(i, stop-longMatch)
			}
			for k := min(stop, end); i < k; i++ {
				v := uint32(binary.LittleEndian.Uint64(src[i:]))
				h3, h4 := v<<8*hashFactor, v*hashFactor
				p3, p4 := &e.head3[h3>>(32-hashBits3)], &e.head4[h4>>(32-hashBits4)]
				e.prev[i&(window-1)] = uint16(*p4)
				*p3, *p4 = entry(h3<<hashBits3&^0xffff|uint32(uint16(i))), entry(h4<<hashBits4&^0xffff|uint32(uint16(i)))
			}
			i, last = stop, 0
		default:
			tokens = append(tokens, literal(src[i]))
			i++
			// Where nothing matched for long, fewer places are looked at.
			e.quiet++
			for k := min(e.quiet/quietBytes, maxSkip); k > 0 && i < end; k-- {
				tokens = append(tokens, literal(src[i]))
				i++
			}
		}
	}
	if last > 0 {
		tokens = append(tokens, match(last, lastDist))
		i += last - 1
	}
	if i >= end {
		for ; i < len(src); i++ {
			tokens = append(tokens, literal(src[i]))
		}
	}
	e.tokens = tokens
	return i
}

// find returns the longest match at i that is longer than least, of four bytes at least;
// none has no length. v are the bytes there; the first candidate is d bytes before.
func (e *Encoder) find(src []byte, i int, v uint64, d, least int) (length, distance int) {
	farthest := min(i, window-1)
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
		d = int(uint16(i) - e.prev[at&(window-1)])
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
