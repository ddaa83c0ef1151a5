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
	maxChain  = 16
	goodMatch = 8
	niceMatch = 64
	lazyMatch = 16

	// matchBits is about what a match costs, in bits, but for those of its distance.
	matchBits = 7

	// After each 1<<skipShift literals in a row one more byte is passed over, up to maxSkip.
	skipShift = 7
	maxSkip   = 7

	// blockTokens is how many tokens share a pair of codes.
	blockTokens = 8 << 10

	hashBits3  = 12
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

// Encoder compresses buffers, one at a time. The zero value is ready for use.
type Encoder struct {
	// Where a hash was seen last, modulo 64 KiB. What is too old is recognised by its
	// distance, or else by its bytes.
	head3 [1 << hashBits3]uint16 // by the hash of three bytes
	head4 [1 << hashBits4]uint16 // by the hash of four
	prev  [window]uint16         // for each position the one before it in head4

	// far is, by the length of a match, the longest distance at which it takes fewer bits
	// than its bytes one by one.
	far   [maxMatch + 2]int32
	chain int // maxChain, less where matches rarely are

	perByte float64 // bits that a literal takes at least, by the entropy of the buffer

	tokens []token
	lits   [286]int32
	dists  [30]int32
	w      bitWriter
}

// Append appends src, compressed, to dst. It gives up and returns dst once more than
// limit bytes would be appended; ok tells which. src has less than 1 GiB.
func (e *Encoder) Append(dst, src []byte, limit int) (out []byte, ok bool) {
	clear(e.head3[:])
	clear(e.head4[:])
	if e.tokens == nil {
		e.tokens = make([]token, 0, blockTokens+2*maxMatch)
	}
	e.w = bitWriter{out: dst}
	limit += len(dst)
	e.tokens = e.tokens[:0]
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
	var counts [256]int32
	histogram(counts[:], src)
	perByte, all := 0.0, float64(len(src))
	for _, n := range counts {
		if n > 0 {
			perByte += float64(n) / all * math.Log2(all/float64(n))
		}
	}
	perByte = max(perByte, 1) // no code is shorter
	e.perByte = perByte
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

// insert puts position i, where the bytes v are, into the tables. It returns how far
// before are the last positions with the same hashes, less one.
func (e *Encoder) insert(i int, v uint32) (d3, d4 uint16) {
	p3, p4 := &e.head3[v<<8*hashFactor>>(32-hashBits3)], &e.head4[v*hashFactor>>(32-hashBits4)]
	last3, last4 := *p3, *p4
	*p3, *p4 = uint16(i), uint16(i)
	e.prev[i&(window-1)] = last4
	return uint16(i-1) - last3, uint16(i-1) - last4
}

// parse makes the tokens of a block from src[i:] and returns where it ends.
func (e *Encoder) parse(src []byte, i int) int {
	end := len(src) - tail
	matched := i // where the last match ends
	tokens := e.tokens[:0]
	for i < end && len(tokens) < blockTokens {
		v := binary.LittleEndian.Uint64(src[i:])
		d3, d4 := e.insert(i, uint32(v))
		length, distance := 0, 0
		if d4 < window {
			length, distance = e.find(src, i, v, int(d4)+1, minMatch, e.chain)
		}
		if length == 0 {
			if d := int(d3) + 1; int32(d) <= e.far[minMatch] && d <= i && (binary.LittleEndian.Uint32(src[i-d:])^uint32(v))<<8 == 0 {
				length, distance = minMatch, d
			} else {
				tokens = append(tokens, literal(byte(v)))
				i++
				// Where matches are rare they are looked for in fewer places.
				for skip := min((i-matched)>>skipShift, maxSkip, end-i); skip > 0; skip-- {
					tokens = append(tokens, literal(src[i]))
					i++
				}
				continue
			}
		}
		// The match at the next byte may be longer.
		start := i
		i++
		for length < lazyMatch && i < end {
			v := binary.LittleEndian.Uint64(src[i:])
			_, d4 := e.insert(i, uint32(v))
			i++
			if d4 >= window {
				break
			}
			tries := e.chain
			if length >= goodMatch {
				tries /= 4
			}
			l, d := e.find(src, i-1, v, int(d4)+1, length, tries)
			if l == 0 {
				break
			}
			tokens = append(tokens, literal(src[start]))
			start, length, distance = i-1, l, d
		}
		tokens = append(tokens, match(length, distance))
		stop := start + length
		for k := min(stop, end); i < k; i++ {
			e.insert(i, binary.LittleEndian.Uint32(src[i:]))
		}
		i, matched = stop, stop
	}
	if i >= end {
		for ; i < len(src); i++ {
			tokens = append(tokens, literal(src[i]))
		}
	}
	e.tokens = tokens
	return i
}

// find returns the longest match at i that is longer than least, which is minMatch or
// more; none has no length. v are the bytes there; the first candidate is d bytes before.
func (e *Encoder) find(src []byte, i int, v uint64, d, least, tries int) (length, distance int) {
	farthest := min(i, window-1)
	n := min(len(src)-i, maxMatch)
	best := least
	if best >= n {
		return 0, 0
	}
	word := binary.LittleEndian.Uint32(src[i+best-3:])
	for before := 0; d > before && d <= farthest; {
		before = d
		at := i - d
		if binary.LittleEndian.Uint32(src[at+best-3:]) == word {
			x := binary.LittleEndian.Uint64(src[at:]) ^ v
			got := bits.TrailingZeros64(x) / 8
			if x == 0 {
				got = same(src[at:], src[i:i+n])
			}
			if got > best && d <= int(e.far[got]) {
				best, length, distance = got, min(got, n), d
				if got >= niceMatch || got >= n {
					break
				}
				word = binary.LittleEndian.Uint32(src[i+best-3:])
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
