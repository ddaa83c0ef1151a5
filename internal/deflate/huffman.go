package deflate

import "math/bits"

// code is a prefix code of RFC 1951, section 3.2.2: for each symbol its bits, as they
// are written, and their number.
type code struct {
	bits   [288]uint16
	length [288]uint8
}

// symbolBits is how many bits of a key have the symbol; the others have its count.
const symbolBits = 9

// sortKeys sorts keys by their counts; those of equal counts stay in order. It returns
// them in one of the two buffers, which have the same length.
func sortKeys(keys, other []uint32) []uint32 {
	most := uint32(0)
	for _, k := range keys {
		most |= k
	}
	for shift := symbolBits; most>>shift > 0; shift += 8 {
		var at [256]uint16
		for _, k := range keys {
			at[uint8(k>>shift)]++
		}
		sum := uint16(0)
		for i, n := range at {
			at[i] = sum
			sum += n
		}
		for _, k := range keys {
			p := &at[uint8(k>>shift)]
			other[*p] = k
			*p++
		}
		keys, other = other, keys
	}
	return keys
}

// build makes the best code for the counts of symbols with at most limit bits. Counts
// are less than 1<<23.
func (c *code) build(counts []int32, limit int) {
	*c = code{}
	var buffers [2][288]uint32
	n := 0
	for s, k := range counts {
		if k > 0 {
			buffers[0][n] = uint32(k)<<symbolBits | uint32(s)
			n++
		}
	}
	switch n {
	case 0:
		return
	case 1:
		c.length[buffers[0][0]&(1<<symbolBits-1)] = 1
		return
	}
	used := sortKeys(buffers[0][:n], buffers[1][:n])
	// Two queues, of leaves and of inner nodes, each in order.
	var parent [2 * 288]uint16
	var weight [288]uint32
	nextLeaf, nextInner := 0, 0
	take := func(made int) (node int, n uint32) {
		if nextLeaf < len(used) && (nextInner >= made || used[nextLeaf]>>symbolBits <= weight[nextInner]) {
			nextLeaf++
			return nextLeaf - 1, used[nextLeaf-1] >> symbolBits
		}
		nextInner++
		return 288 + nextInner - 1, weight[nextInner-1]
	}
	inner := len(used) - 1
	for made := range inner {
		a, x := take(made)
		b, y := take(made)
		parent[a], parent[b], weight[made] = uint16(made), uint16(made), x+y
	}
	// Inner nodes come after their children, so that depths follow from the root.
	var depth [288]uint8
	var lengths [32]int
	for i := inner - 2; i >= 0; i-- {
		depth[i] = depth[parent[288+i]] + 1
	}
	for i := range used {
		lengths[min(int(depth[parent[i]])+1, limit)]++
	}
	// Where codes were cut to the limit others must get longer.
	total := 0
	for l := 1; l <= limit; l++ {
		total += lengths[l] << (limit - l)
	}
	for ; total > 1<<limit; total-- {
		lengths[limit]--
		for l := limit - 1; l > 0; l-- {
			if lengths[l] > 0 {
				lengths[l]--
				lengths[l+1] += 2
				break
			}
		}
	}
	at := 0
	for l := limit; l > 0; l-- {
		for range lengths[l] {
			c.length[used[at]&(1<<symbolBits-1)] = uint8(l)
			at++
		}
	}
	c.assign()
}

// assign derives the bits from the lengths.
func (c *code) assign() {
	var count, next [16]uint16
	for _, l := range c.length {
		count[l]++
	}
	count[0] = 0
	for l := 1; l < 16; l++ {
		next[l] = (next[l-1] + count[l-1]) << 1
	}
	for s, l := range c.length {
		if l > 0 {
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

	fixedLits = func() *code {
		var c code
		for s := range c.length {
			switch {
			case s < 144:
				c.length[s] = 8
			case s < 256:
				c.length[s] = 9
			case s < 280:
				c.length[s] = 7
			default:
				c.length[s] = 8
			}
		}
		c.assign()
		return &c
	}()
	fixedDists = func() *code {
		var c code
		for s := range 30 {
			c.length[s] = 5
		}
		c.assign()
		return &c
	}()
)

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
