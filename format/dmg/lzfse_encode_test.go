package dmg

import "math/bits"

// lmd is literals and a match.
type lmd struct{ l, m, d int }

// matches parses p[start:] into literals and matches with what came before; none has
// more literals than maxL or a longer match than maxM.
func matches(p []byte, start, maxL, maxM int) (out []lmd) {
	last := map[uint32]int{}
	for i := max(0, start-60000); i+4 <= start; i++ {
		last[le.Uint32(p[i:])] = i
	}
	lit := 0
	flush := func() {
		for ; lit > maxL; lit -= maxL {
			out = append(out, lmd{maxL, 0, 1})
		}
	}
	for i := start; i < len(p); {
		n, d := 0, 0
		if i+4 <= len(p) {
			key := le.Uint32(p[i:])
			if at, ok := last[key]; ok && i-at < 60000 {
				for d = i - at; n < maxM && i+n < len(p) && p[i+n] == p[at+n]; n++ {
				}
			}
			last[key] = i
		}
		if n < 4 {
			lit++
			i++
			continue
		}
		flush()
		out = append(out, lmd{lit, n, d})
		lit, i = 0, i+n
	}
	flush()
	if lit > 0 {
		out = append(out, lmd{lit, 0, 1})
	}
	return out
}

// encodeLZFSE makes blocks of all kinds, in turn, or of LZVN only.
func encodeLZFSE(p []byte, onlyLZVN bool) (out []byte) {
	const block = 30000
	for i, turn := 0, 0; i < len(p); i, turn = i+block, turn+1 {
		end := min(i+block, len(p))
		if onlyLZVN {
			turn = 1
		}
		switch turn % 4 {
		case 2:
			out = le.AppendUint32(le.AppendUint32(out, blockRaw), uint32(end-i))
			out = append(out, p[i:end]...)
		case 1:
			enc := encodeLZVN(p[:end], i)
			out = le.AppendUint32(le.AppendUint32(out, blockLZVN), uint32(end-i))
			out = append(le.AppendUint32(out, uint32(len(enc))), enc...)
		default:
			out = append(out, encodeFSE(p[:end], i)...)
		}
	}
	return le.AppendUint32(out, blockEnd)
}

// forward writes bits, the first ones lowest.
type forward struct {
	p []byte
	n int
}

func (f *forward) put(v, n int) {
	for i := range n {
		if f.n%8 == 0 {
			f.p = append(f.p, 0)
		}
		f.p[f.n/8] |= byte(v>>i&1) << (f.n % 8)
		f.n++
	}
}

// normal scales counts to a sum of states, with none lost.
func normal(counts []int, states int) []uint16 {
	freq, sum, total, most := make([]uint16, len(counts)), 0, 0, 0
	for _, c := range counts {
		total += c
	}
	if total == 0 {
		return freq
	}
	for i, c := range counts {
		if c > 0 {
			freq[i] = uint16(max(1, c*states/total))
			sum += int(freq[i])
		}
		if freq[i] > freq[most] {
			most = i
		}
	}
	for sum > states {
		for i := range freq {
			if freq[i] > 1 && sum > states {
				freq[i]--
				sum--
			}
		}
	}
	freq[most] += uint16(states - sum)
	return freq
}

// step is the state before a symbol, and the bits that lead to the state after it.
type step struct{ state, bits, n int }

// steps inverts a table of states: by symbol and state afterwards.
func steps(freq []uint16, states int) []map[int]step {
	out := make([]map[int]step, len(freq))
	at := 0
	eachState(freq, states, func(symbol int, k uint8, delta int) {
		if out[symbol] == nil {
			out[symbol] = map[int]step{}
		}
		for v := range 1 << k {
			out[symbol][delta+v] = step{at, v, int(k)}
		}
		at++
	})
	return out
}

// symbolOf finds the symbol of a number and its extra bits.
func symbolOf(v, symbols int, extra func(int) uint8) (symbol, rest int) {
	base := 0
	for i := range symbols {
		if n := 1 << extra(i); v < base+n {
			return i, v - base
		} else {
			base += n
		}
	}
	panic("a number without a symbol")
}

// encodeFSE makes a block of p[start:].
func encodeFSE(p []byte, start int) []byte {
	list := matches(p, start, 315, 2359)
	var lit []byte
	at := start
	var cl, cm, cd, clit = make([]int, symbolsL), make([]int, symbolsM), make([]int, symbolsD), make([]int, symbolsLit)
	before := 0
	for i := range list {
		m := &list[i]
		lit = append(lit, p[at:at+m.l]...)
		at += m.l + m.m
		if m.d == before {
			m.d = 0
		} else {
			before = m.d
		}
		s, _ := symbolOf(m.l, symbolsL, extraL)
		cl[s]++
		s, _ = symbolOf(m.m, symbolsM, extraM)
		cm[s]++
		s, _ = symbolOf(m.d, symbolsD, extraD)
		cd[s]++
	}
	for len(lit)%4 != 0 {
		lit = append(lit, 0)
	}
	for _, c := range lit {
		clit[c]++
	}
	fl, fm, fd, flit := normal(cl, statesL), normal(cm, statesM), normal(cd, statesD), normal(clit, statesLit)
	var head forward
	for _, f := range [][]uint16{fl, fm, fd, flit} {
		for _, v := range f {
			switch v := int(v); {
			case v == 0:
				head.put(0, 2)
			case v == 1:
				head.put(2, 2)
			case v == 2:
				head.put(1, 3)
			case v == 3:
				head.put(5, 3)
			case v < 8:
				head.put(3|(v-4)<<3, 5)
			case v < 24:
				head.put(7|(v-8)<<4, 8)
			default:
				head.put(15|(v-24)<<4, 14)
			}
		}
	}
	// From the last symbol to the first, since bits are read from the end.
	var litBits, lmdBits forward
	var litState [4]int
	slit := steps(flit, statesLit)
	for i := len(lit) - 1; i >= 0; i-- {
		s := slit[lit[i]][litState[i%4]]
		litBits.put(s.bits, s.n)
		litState[i%4] = s.state
	}
	var sl, sm, sd int
	tl, tm, td := steps(fl, statesL), steps(fm, statesM), steps(fd, statesD)
	number := func(v, symbols int, extra func(int) uint8, t []map[int]step, state *int) {
		symbol, rest := symbolOf(v, symbols, extra)
		s := t[symbol][*state]
		x := int(extra(symbol))
		lmdBits.put(rest|s.bits<<x, s.n+x)
		*state = s.state
	}
	for i := len(list) - 1; i >= 0; i-- {
		number(list[i].d, symbolsD, extraD, td, &sd)
		number(list[i].m, symbolsM, extraM, tm, &sm)
		number(list[i].l, symbolsL, extraL, tl, &sl)
	}
	unused := func(f *forward) uint64 { return uint64(7 - (len(f.p)*8 - f.n)) }
	out := le.AppendUint32(le.AppendUint32(nil, blockFSE), uint32(len(p)-start))
	out = le.AppendUint64(out, uint64(len(lit))|uint64(len(litBits.p))<<20|uint64(len(list))<<40|unused(&litBits)<<60)
	out = le.AppendUint64(out, uint64(litState[0])|uint64(litState[1])<<10|uint64(litState[2])<<20|uint64(litState[3])<<30|uint64(len(lmdBits.p))<<40|unused(&lmdBits)<<60)
	out = le.AppendUint64(out, uint64(32+len(head.p))|uint64(sl)<<32|uint64(sm)<<42|uint64(sd)<<52)
	out = append(out, head.p...)
	out = append(out, litBits.p...)
	return append(out, lmdBits.p...)
}

// encodeLZVN makes a payload of p[start:], with each operation where it fits.
func encodeLZVN(p []byte, start int) (out []byte) {
	at, before := start, 0
	for _, m := range matches(p[start:], 0, 1000, 2000) {
		l := m.l
		literals := func(n int) {
			out = append(out, p[at:at+n]...)
			at += n
		}
		for l > 3 {
			n := min(l, 271)
			if n >= 16 {
				out = append(out, 0xe0, byte(n-16))
			} else {
				out = append(out, 0xe0|byte(n))
			}
			literals(n)
			l -= n
		}
		if m.m == 0 {
			if l > 0 {
				out = append(out, 0xe0|byte(l))
				literals(l)
			}
			continue
		}
		n := min(m.m, 10)
		switch {
		case m.d == before && l > 0 && bits.OnesCount(uint(n))%2 == 0 && !(l == 1 && n > 8) && !(l == 2 && n > 6) && !(l == 3 && n > 4):
			out = append(out, byte(l)<<6|byte(n-3)<<3|6)
			literals(l)
		case m.d < 1536 && !(l == 1 && n > 8) && !(l == 2 && n > 6) && !(l == 3 && n > 4):
			out = append(out, byte(l)<<6|byte(n-3)<<3|byte(m.d>>8), byte(m.d))
			literals(l)
		case m.d < 16384:
			n = min(m.m, 34)
			out = append(out, 0xa0|byte(l)<<3|byte((n-3)>>2), byte(m.d<<2)|byte((n-3)&3), byte(m.d>>6))
			literals(l)
		default:
			n = min(m.m, 4)
			out = append(out, byte(l)<<6|byte(n-3)<<3|7, byte(m.d), byte(m.d>>8))
			literals(l)
		}
		at += n
		before = m.d
		for n = m.m - n; n > 0; {
			k := min(n, 271)
			if k >= 16 {
				out = append(out, 0xf0, byte(k-16))
			} else {
				out = append(out, 0xf0|byte(k))
			}
			n -= k
			at += k
		}
		if len(out)%5 == 0 {
			out = append(out, 0x0e, 0x16)
		}
	}
	return append(out, 6, 0, 0, 0, 0, 0, 0, 0)
}
