package deflate

import (
	"encoding/binary"
	"math/bits"
)

const (
	window   = 4096
	minMatch = 3
	maxMatch = 258

	hashBits = 14

	// How hard matches are sought: so many candidates are looked at, a quarter of them
	// once a match of goodMatch is there; one of niceMatch ends the search, and one
	// of lazyMatch is taken without a look at the next byte.
	maxChain  = 16
	goodMatch = 8
	niceMatch = 128
	lazyMatch = 16

	// blockTokens is how many tokens share a pair of codes.
	blockTokens = 16 << 10
)

// token is a literal byte, or a match with its length and distance.
type token uint32

const matchFlag token = 1 << 31

func literal(b byte) token { return token(b) }

func match(length, distance int) token {
	return matchFlag | token(length-minMatch)<<16 | token(distance-1)
}

func (t token) length() int   { return int(t>>16&0xff) + minMatch }
func (t token) distance() int { return int(t&0xffff) + 1 }

// Encoder compresses buffers, one at a time. The zero value is ready for use.
type Encoder struct {
	// head and prev chain the positions with equal hashes. Positions count on from
	// buffer to buffer, so that neither is cleared: what is below base is not of this one.
	head [1 << hashBits]int32
	prev [window]int32
	base int32

	tokens []token
	lits   [286]int32
	dists  [30]int32
	w      bitWriter
}

func hash(p []byte) uint32 {
	v := uint32(p[0]) | uint32(p[1])<<8 | uint32(p[2])<<16
	return v * 2654435761 >> (32 - hashBits)
}

// Append appends src, compressed, to dst. It gives up and returns dst once more than
// limit bytes would be appended; ok tells which. src has less than 1 GiB.
func (e *Encoder) Append(dst, src []byte, limit int) (out []byte, ok bool) {
	if e.base > 1<<30 || e.base == 0 {
		e.head, e.base = [1 << hashBits]int32{}, window
	}
	e.w = bitWriter{out: dst}
	limit += len(dst)
	e.start()
	n := len(src)
	held := false // the literal before i waits for a better match at i
	last, lastDist := minMatch-1, 0
	for i := 0; i < n; {
		length, distance := minMatch-1, 0
		if i+minMatch <= n {
			candidate := e.insert(src, i)
			if last < lazyMatch && candidate >= e.base {
				length, distance = e.find(src, i, candidate, last)
			}
		}
		if last >= minMatch && length <= last {
			e.add(match(last, lastDist))
			end := i - 1 + last
			for i++; i < end; i++ {
				if i+minMatch <= n {
					e.insert(src, i)
				}
			}
			held, last = false, minMatch-1
		} else {
			if held {
				e.add(literal(src[i-1]))
			}
			held, last, lastDist = true, length, distance
			i++
		}
		if len(e.tokens) >= blockTokens {
			pos := i
			if held {
				pos--
			}
			e.flush(src[e.w.start:pos], false)
			e.w.start = pos
			if len(e.w.out) > limit {
				break
			}
		}
	}
	if held {
		e.add(literal(src[n-1]))
	}
	if len(e.w.out) <= limit {
		e.flush(src[e.w.start:], true)
		e.w.align()
	}
	out, e.w.out = e.w.out, nil
	e.base += int32(n) + window
	if len(out) > limit {
		return dst, false
	}
	return out, true
}

// insert puts position i into its chain and returns the one before it there.
func (e *Encoder) insert(src []byte, i int) int32 {
	h := hash(src[i:])
	before, pos := e.head[h], e.base+int32(i)
	e.prev[pos&(window-1)] = before
	e.head[h] = pos
	return before
}

// find returns the longest match at i, longer than least, among the chain from
// candidate on.
func (e *Encoder) find(src []byte, i int, candidate int32, least int) (length, distance int) {
	best, n := max(least, minMatch-1), min(len(src)-i, maxMatch)
	if best >= n {
		return minMatch - 1, 0
	}
	lowest := max(e.base, e.base+int32(i)-(window-1))
	tries := maxChain
	if least >= goodMatch {
		tries /= 4
	}
	// A candidate that is longer has the same bytes where the best one ends.
	tail := binary.LittleEndian.Uint16(src[i+best-1:])
	for ; candidate >= lowest && tries > 0; tries-- {
		at := int(candidate - e.base)
		candidate = e.prev[candidate&(window-1)]
		if binary.LittleEndian.Uint16(src[at+best-1:]) != tail {
			continue
		}
		if got := same(src[at:], src[i:i+n]); got > best {
			best, distance = got, i-at
			if got >= niceMatch || got == n {
				break
			}
			tail = binary.LittleEndian.Uint16(src[i+best-1:])
		}
	}
	if distance == 0 {
		return minMatch - 1, 0
	}
	return best, distance
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

// start empties the block.
func (e *Encoder) start() {
	e.tokens = e.tokens[:0]
	e.lits, e.dists = [286]int32{}, [30]int32{}
}

func (e *Encoder) add(t token) {
	e.tokens = append(e.tokens, t)
	if t&matchFlag == 0 {
		e.lits[t]++
		return
	}
	e.lits[lengthCodes[t.length()-minMatch]]++
	e.dists[distanceCode(t.distance())]++
}
