package xz

const (
	states      = 12
	posStates   = 4 // 1<<pb
	litContext  = 3 // lc: bits of the byte before
	properties  = (2*5+0)*9 + litContext
	lenStates   = 4
	fullDists   = 128 // distances with prices of their own
	alignBits   = 4
	firstDirect = 14 // the first slot with direct bits
)

// lengths encodes lengths from 2 on.
type lengths struct {
	choice, choice2 prob
	low, mid        [posStates][8]prob
	high            [256]prob

	prices [posStates][maxMatch + 1]uint32
}

func (l *lengths) reset() {
	l.choice, l.choice2 = probInit, probInit
	for i := range l.low {
		fill(l.low[i][:])
		fill(l.mid[i][:])
	}
	fill(l.high[:])
}

func fill(p []prob) {
	for i := range p {
		p[i] = probInit
	}
}

func (l *lengths) encode(c *rangeCoder, n, posState uint32) {
	switch n -= minMatch; {
	case n < 8:
		c.bit(&l.choice, 0)
		c.tree(l.low[posState][:], n, 3)
	case n < 16:
		c.bit(&l.choice, 1)
		c.bit(&l.choice2, 0)
		c.tree(l.mid[posState][:], n-8, 3)
	default:
		c.bit(&l.choice, 1)
		c.bit(&l.choice2, 1)
		c.tree(l.high[:], n-16, 8)
	}
}

func (l *lengths) updatePrices() {
	zero, one := price0(l.choice), price1(l.choice)
	for s := range uint32(posStates) {
		for n := uint32(0); n < 8; n++ {
			l.prices[s][n+minMatch] = zero + treePrice(l.low[s][:], n, 3)
			l.prices[s][n+8+minMatch] = one + price0(l.choice2) + treePrice(l.mid[s][:], n, 3)
		}
	}
	for n := uint32(0); n < 256; n++ {
		p := one + price1(l.choice2) + treePrice(l.high[:], n, 8)
		for s := range l.prices {
			l.prices[s][n+16+minMatch] = p
		}
	}
}

// model is the state of the coder: what a reader has, too.
type model struct {
	state   uint32
	reps    [4]uint32
	literal [1 << litContext][0x300]prob
	isMatch [states][posStates]prob
	isRep   [states]prob
	isRep0  [states]prob // not the last distance
	isRep1  [states]prob
	isRep2  [states]prob
	isLong  [states][posStates]prob // the last distance for more than a byte
	slots   [lenStates][64]prob
	special [fullDists - firstDirect + 1]prob
	align   [1 << alignBits]prob
	match   lengths
	rep     lengths
}

func (m *model) reset() {
	m.state, m.reps = 0, [4]uint32{}
	for i := range m.literal {
		fill(m.literal[i][:])
	}
	for i := range m.isMatch {
		fill(m.isMatch[i][:])
		fill(m.isLong[i][:])
	}
	for _, p := range []*[states]prob{&m.isRep, &m.isRep0, &m.isRep1, &m.isRep2} {
		fill(p[:])
	}
	for i := range m.slots {
		fill(m.slots[i][:])
	}
	fill(m.special[:])
	fill(m.align[:])
	m.match.reset()
	m.rep.reset()
}

// The state after a symbol.
func afterLiteral(s uint32) uint32 {
	switch {
	case s < 4:
		return 0
	case s < 10:
		return s - 3
	}
	return s - 6
}

func after(s, low, high uint32) uint32 {
	if s < 7 {
		return low
	}
	return high
}

func afterMatch(s uint32) uint32 { return after(s, 7, 10) }
func afterRep(s uint32) uint32   { return after(s, 8, 11) }
func afterShort(s uint32) uint32 { return after(s, 9, 11) }

// A step back is encoded as a number: 0 to 3 for the former distances, then distances
// from 4 on.
const (
	noBack   = 1<<32 - 1 // a literal
	repCount = 4
)

// step returns the former distances and the state after a symbol of length n.
func step(state uint32, reps [4]uint32, n, back uint32) (uint32, [4]uint32) {
	switch {
	case back == noBack:
		return afterLiteral(state), reps
	case back >= repCount:
		return afterMatch(state), [4]uint32{back - repCount, reps[0], reps[1], reps[2]}
	case n == 1:
		return afterShort(state), reps
	}
	d := reps[back]
	copy(reps[1:back+1], reps[:back])
	reps[0] = d
	return afterRep(state), reps
}

// encode writes a symbol: the byte at pos, or n bytes from back.
func (m *model) encode(c *rangeCoder, src []byte, pos int, n, back uint32) {
	ps := uint32(pos) % posStates
	s := m.state
	if back == noBack {
		c.bit(&m.isMatch[s][ps], 0)
		m.encodeLiteral(c, src, pos)
		m.state = afterLiteral(s)
		return
	}
	c.bit(&m.isMatch[s][ps], 1)
	if back >= repCount {
		c.bit(&m.isRep[s], 0)
		m.match.encode(c, n, ps)
		m.encodeDistance(c, back-repCount, n)
	} else {
		c.bit(&m.isRep[s], 1)
		if back == 0 {
			c.bit(&m.isRep0[s], 0)
			c.bit(&m.isLong[s][ps], uint32(min(n-1, 1)))
		} else {
			c.bit(&m.isRep0[s], 1)
			if back == 1 {
				c.bit(&m.isRep1[s], 0)
			} else {
				c.bit(&m.isRep1[s], 1)
				c.bit(&m.isRep2[s], back-2)
			}
		}
		if n > 1 {
			m.rep.encode(c, n, ps)
		}
	}
	m.state, m.reps = step(s, m.reps, n, back)
}

// context is the probabilities of a literal at pos.
func (m *model) context(src []byte, pos int) []prob {
	before := byte(0)
	if pos > 0 {
		before = src[pos-1]
	}
	return m.literal[before>>(8-litContext)][:]
}

func (m *model) encodeLiteral(c *rangeCoder, src []byte, pos int) {
	probs := m.context(src, pos)
	b := uint32(src[pos]) | 0x100
	if m.state < 7 {
		for i := 7; i >= 0; i-- {
			c.bit(&probs[b>>(i+1)], b>>i&1)
		}
		return
	}
	// after a match: the byte that would go on with it is the context
	other, offset := uint32(src[pos-int(m.reps[0])-1]), uint32(0x100)
	for i := 7; i >= 0; i-- {
		other <<= 1
		c.bit(&probs[offset+other&offset+b>>(i+1)], b>>i&1)
		offset &= ^(other ^ b<<(8-i))
	}
}

func (m *model) encodeDistance(c *rangeCoder, dist, n uint32) {
	slot := slotOf(dist)
	c.tree(m.slots[min(n-minMatch, lenStates-1)][:], slot, 6)
	if slot < 4 {
		return
	}
	footer := int(slot>>1) - 1
	base := (2 | slot&1) << footer
	if slot < firstDirect {
		c.reverse(m.special[:], int(base-slot)-1, dist-base, footer)
		return
	}
	c.direct((dist-base)>>alignBits, footer-alignBits)
	c.reverse(m.align[:], 0, dist&(1<<alignBits-1), alignBits)
}
