package xz

import "math/bits"

// The probabilities of LZMA: that the next bit is 0, in 2048ths.
const (
	probBits = 11
	probInit = 1 << (probBits - 1)
	probMove = 5 // how fast they follow

	priceShift = 4 // prices are in 16ths of a bit
	priceNever = 1 << 30
)

type prob = uint16

// prices are those of a bit by the upper bits of its probability. They are integers all
// through, so that the output is the same on each processor.
var prices = makePrices()

func makePrices() (t [1 << (probBits - priceShift)]uint32) {
	for i := range t {
		w, count := uint32(i<<priceShift+1<<(priceShift-1)), uint32(0)
		for range priceShift {
			w *= w
			count <<= 1
			for w >= 1<<16 {
				w >>= 1
				count++
			}
		}
		t[i] = probBits<<priceShift - 15 - count
	}
	return t
}

func price0(p prob) uint32 { return prices[p>>priceShift] }
func price1(p prob) uint32 { return prices[(1<<probBits-p)>>priceShift] }

func priceOf(p prob, bit uint32) uint32 {
	return prices[(uint32(p)^-bit&(1<<probBits-1))>>priceShift]
}

// rangeCoder writes bits by their probabilities.
type rangeCoder struct {
	low   uint64
	width uint32
	cache byte
	held  int // bytes that a carry may still change, cache among them
	out   []byte
}

func (c *rangeCoder) reset(out []byte) {
	*c = rangeCoder{width: 1<<32 - 1, held: 1, out: out}
}

func (c *rangeCoder) shift() {
	if uint32(c.low) < 0xff000000 || c.low>>32 != 0 {
		carry := byte(c.low >> 32)
		b := c.cache
		for ; c.held > 0; c.held-- {
			c.out = append(c.out, b+carry)
			b = 0xff
		}
		c.cache = byte(c.low >> 24)
	}
	c.held++
	c.low = c.low & 0x00ffffff << 8
}

// finish writes what is needed to decode all bits.
func (c *rangeCoder) finish() []byte {
	for range 5 {
		c.shift()
	}
	return c.out
}

func (c *rangeCoder) bit(p *prob, bit uint32) {
	bound := c.width >> probBits * uint32(*p)
	if bit == 0 {
		c.width = bound
		*p += (1<<probBits - *p) >> probMove
	} else {
		c.low += uint64(bound)
		c.width -= bound
		*p -= *p >> probMove
	}
	for c.width < 1<<24 {
		c.width <<= 8
		c.shift()
	}
}

// direct writes count bits that are 0 or 1 alike.
func (c *rangeCoder) direct(v uint32, count int) {
	for i := count - 1; i >= 0; i-- {
		c.width >>= 1
		c.low += uint64(c.width & -(v >> i & 1))
		for c.width < 1<<24 {
			c.width <<= 8
			c.shift()
		}
	}
}

// tree writes a number bit by bit, the highest first; each bit's probability depends on
// those before it.
func (c *rangeCoder) tree(probs []prob, v uint32, count int) {
	m := uint32(1)
	for i := count - 1; i >= 0; i-- {
		b := v >> i & 1
		c.bit(&probs[m], b)
		m = m<<1 | b
	}
}

// reverse writes a number with the lowest bit first. base is the index of probs before
// the first probability, which may be -1.
func (c *rangeCoder) reverse(probs []prob, base int, v uint32, count int) {
	m := uint32(1)
	for range count {
		b := v & 1
		c.bit(&probs[base+int(m)], b)
		m = m<<1 | b
		v >>= 1
	}
}

func treePrice(probs []prob, v uint32, count int) (price uint32) {
	m := uint32(1)
	for i := count - 1; i >= 0; i-- {
		b := v >> i & 1
		price += priceOf(probs[m], b)
		m = m<<1 | b
	}
	return price
}

func reversePrice(probs []prob, base int, v uint32, count int) (price uint32) {
	m := uint32(1)
	for range count {
		b := v & 1
		price += priceOf(probs[base+int(m)], b)
		m = m<<1 | b
		v >>= 1
	}
	return price
}

// slotOf is the class of a distance, which counts from 0.
func slotOf(dist uint32) uint32 {
	if dist < 4 {
		return dist
	}
	n := uint32(bits.Len32(dist)) - 1
	return n<<1 | dist>>(n-1)&1
}
