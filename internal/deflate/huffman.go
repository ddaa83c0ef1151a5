package deflate

import (
	"math/bits"
	"sync"

	"github.com/cowl-disk/cowl/internal/huffman"
)

// code is a prefix code of RFC 1951, section 3.2.2: for each symbol its bits, as they
// are written, and their number.
type code struct {
	bits   [288]uint16
	length [288]uint8
}

// build makes the best code for the counts of symbols with at most limit bits. Counts
// are less than 1<<23.
func (c *code) build(counts []int32, limit int) {
	*c = code{}
	huffman.Lengths(c.length[:len(counts)], counts, limit)
	c.assign(len(counts))
}

// assign derives the bits of the first symbols, which are all that occur, from their lengths.
func (c *code) assign(symbols int) {
	var count, next [16]uint16
	for _, l := range c.length[:symbols] {
		count[l&15]++
	}
	count[0] = 0
	for l := 1; l < 16; l++ {
		next[l] = (next[l-1] + count[l-1]) << 1
	}
	for s, l := range c.length[:symbols] {
		if l &= 15; l > 0 {
			c.bits[s] = bits.Reverse16(next[l]) >> (16 - l)
			next[l]++
		}
	}
}

// size is the number of bits that the symbols with these counts take.
func (c *code) size(counts []int32) int {
	n := 0
	for s, k := range counts {
		n += int(k) * int(c.length[s])
	}
	return n
}

// Tables of RFC 1951, section 3.2.5.
var (
	lengthBase  = [29]int{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [29]uint{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}

	// lengthLess is lengthBase, counted from minMatch.
	lengthLess = func() (t [29]uint8) {
		for i, base := range lengthBase {
			t[i] = uint8(base - minMatch)
		}
		return t
	}()

	// lengthCodes are the symbols of lengths, from minMatch on.
	lengthCodes = func() (t [maxMatch - minMatch + 1]uint16) {
		for c, base := range lengthBase {
			for i := base - minMatch; i < len(t); i++ {
				t[i] = uint16(257 + c)
			}
		}
		return t
	}()
)

// fixedCodes are the codes of fixed blocks, of literals and lengths and of distances (section 3.2.6).
var fixedCodes = sync.OnceValues(func() (lits, dists *code) {
	lits, dists = new(code), new(code)
	for s := range lits.length {
		switch {
		case s < 144:
			lits.length[s] = 8
		case s < 256:
			lits.length[s] = 9
		case s < 280:
			lits.length[s] = 7
		default:
			lits.length[s] = 8
		}
	}
	lits.assign(len(lits.length))
	for s := range 30 {
		dists.length[s] = 5
	}
	dists.assign(len(dists.length))
	return lits, dists
})

// distanceCode returns the symbol of a distance.
func distanceCode(d int) int {
	if d <= 2 {
		return d - 1
	}
	n := bits.Len(uint(d-1)) - 1
	return 2*n + (d-1)>>(n-1)&1
}

// distanceExtra is the number of extra bits of a distance symbol.
func distanceExtra(symbol int) uint { return uint(max(0, symbol/2-1)) }
