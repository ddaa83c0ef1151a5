package xz

// maxNodes bounds how far the parser looks ahead.
const maxNodes = 2048

// node is a position in the graph of symbols: the cheapest way to it that is known.
type node struct {
	price uint32
	from  int32 // the node before
	back  uint32
	state uint32
	reps  [4]uint32
}

// parser chooses symbols so that they take few bits: it goes through the positions in
// order, and tries from each the literal, the former distances and all matches.
type parser struct {
	*model
	finder finder
	nodes  [maxNodes + maxMatch + 1]node
	end    int // the furthest node that has a price

	// pending are the matches at the position when they have been looked up already.
	pending  []match
	isLooked bool

	slotPrices [lenStates][64]uint32
	distPrices [lenStates][fullDists]uint32
	alignPrice [1 << alignBits]uint32

	path []symbol

	// repeats is how many bytes at the position are like those at the former distances.
	repeats [4]int
}

// symbol is a literal, or length bytes from back.
type symbol struct{ length, back uint32 }

// updatePrices recomputes the prices of lengths and distances.
func (p *parser) updatePrices() {
	p.match.updatePrices()
	p.rep.updatePrices()
	for i := range p.alignPrice {
		p.alignPrice[i] = reversePrice(p.align[:], 0, uint32(i), alignBits)
	}
	for ls := range uint32(lenStates) {
		for slot := range uint32(64) {
			price := treePrice(p.slots[ls][:], slot, 6)
			if slot >= firstDirect {
				price += (slot>>1 - 1 - alignBits) << priceShift
			}
			p.slotPrices[ls][slot] = price
		}
		for dist := range uint32(fullDists) {
			slot := slotOf(dist)
			price := p.slotPrices[ls][slot]
			if slot >= 4 {
				footer := int(slot>>1) - 1
				base := (2 | slot&1) << footer
				price += reversePrice(p.special[:], int(base-slot)-1, dist-base, footer)
			}
			p.distPrices[ls][dist] = price
		}
	}
}

func (p *parser) distancePrice(dist, n uint32) uint32 {
	ls := min(n-minMatch, lenStates-1)
	if dist < fullDists {
		return p.distPrices[ls][dist]
	}
	return p.slotPrices[ls][slotOf(dist)] + p.alignPrice[dist&(1<<alignBits-1)]
}

func (p *parser) literalPrice(src []byte, pos int, n *node) (price uint32) {
	probs := p.context(src, pos)
	b := uint32(src[pos]) | 0x100
	if n.state < 7 {
		for i := 7; i >= 0; i-- {
			price += priceOf(probs[b>>(i+1)], b>>i&1)
		}
		return price
	}
	other, offset := uint32(src[pos-int(n.reps[0])-1]), uint32(0x100)
	for i := 7; i >= 0; i-- {
		other <<= 1
		price += priceOf(probs[offset+other&offset+b>>(i+1)], b>>i&1)
		offset &= ^(other ^ b<<(8-i))
	}
	return price
}

// repPrice is that of a former distance, without the length.
func (p *parser) repPrice(i, state, ps uint32) uint32 {
	if i == 0 {
		return price0(p.isRep0[state]) + price1(p.isLong[state][ps])
	}
	price := price1(p.isRep0[state])
	if i == 1 {
		return price + price0(p.isRep1[state])
	}
	return price + price1(p.isRep1[state]) + priceOf(p.isRep2[state], i-2)
}

// lookup returns the matches at pos, which is where the finder is or has just been.
func (p *parser) lookup() []match {
	if p.isLooked {
		p.isLooked = false
		return p.pending
	}
	return p.finder.matches()
}

// next returns the symbols from pos on, at least one. The slice is good until the next
// call.
func (p *parser) next(src []byte, pos int) []symbol {
	p.nodes[0] = node{state: p.state, reps: p.reps}
	p.end = 0
	cur := 0
	for {
		at := pos + cur
		n := &p.nodes[cur]
		if cur > 0 {
			from := &p.nodes[n.from]
			n.state, n.reps = step(from.state, from.reps, uint32(cur)-uint32(n.from), n.back)
		}
		found := p.lookup()
		available := min(len(src)-at, maxMatch)
		if s, ok := p.nice(src, at, n, found, available); ok {
			if cur > 0 { // first the way to here
				p.pending, p.isLooked = found, true
				return p.trace(cur)
			}
			p.finder.skip(int(s.length) - 1)
			p.path = append(p.path[:0], s)
			return p.path
		}
		p.relax(src, at, cur, n, found, available)
		if cur++; cur == p.end || cur >= maxNodes {
			return p.trace(cur)
		}
	}
}

// nice returns a match that is long enough to be taken as it is. Where there is none, it
// has computed repeats.
func (p *parser) nice(src []byte, at int, n *node, found []match, available int) (symbol, bool) {
	if last := len(found) - 1; last >= 0 && found[last].length >= uint32(p.finder.nice) {
		return symbol{found[last].length, found[last].distance + repCount}, true
	}
	for i, d := range n.reps {
		k := repeated(src, at, int(d)+1, available)
		if k >= p.finder.nice {
			return symbol{uint32(k), uint32(i)}, true
		}
		p.repeats[i] = k
	}
	return symbol{}, false
}

// repeated returns how many bytes at a position are like those dist bytes before.
func repeated(src []byte, at, dist, limit int) (n int) {
	if dist > at || limit == 0 || src[at] != src[at-dist] {
		return 0
	}
	return common(src[at-dist:][:limit], src[at:][:limit], 1)
}

// offer makes a way to a node the one that is known, if it is cheaper.
func (p *parser) offer(to, from int, back, price uint32) {
	for p.end < to {
		p.end++
		p.nodes[p.end].price = priceNever
	}
	if n := &p.nodes[to]; price < n.price {
		n.price, n.from, n.back = price, int32(from), back
	}
}

// relax tries each symbol at a node.
func (p *parser) relax(src []byte, at, cur int, n *node, found []match, available int) {
	ps := uint32(at) % posStates
	s := n.state
	isMatch := p.isMatch[s][ps]
	p.offer(cur+1, cur, noBack, n.price+price0(isMatch)+p.literalPrice(src, at, n))
	price := n.price + price1(isMatch)
	rep := price + price1(p.isRep[s])
	if p.repeats[0] > 0 {
		p.offer(cur+1, cur, 0, rep+price0(p.isRep0[s])+price0(p.isLong[s][ps]))
	}
	if available < minMatch {
		return
	}
	covered := 1 // lengths that the last distance has, too: a match is dearer
	for i, k := range p.repeats {
		if k < minMatch {
			continue
		}
		base := rep + p.repPrice(uint32(i), s, ps)
		for length := k; length >= minMatch; length-- {
			p.offer(cur+length, cur, uint32(i), base+p.rep.prices[ps][length])
		}
		if i == 0 {
			covered = k
		}
	}
	price += price0(p.isRep[s])
	length := uint32(covered + 1)
	for _, m := range found {
		for ; length <= m.length; length++ {
			p.offer(cur+int(length), cur, m.distance+repCount, price+p.match.prices[ps][length]+p.distancePrice(m.distance, length))
		}
	}
}

// trace returns the symbols on the way to a node.
func (p *parser) trace(to int) []symbol {
	p.path = p.path[:0]
	for to > 0 {
		n := &p.nodes[to]
		p.path = append(p.path, symbol{uint32(to) - uint32(n.from), n.back})
		to = int(n.from)
	}
	for i, j := 0, len(p.path)-1; i < j; i, j = i+1, j-1 {
		p.path[i], p.path[j] = p.path[j], p.path[i]
	}
	return p.path
}
