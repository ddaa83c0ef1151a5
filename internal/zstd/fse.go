package zstd

import (
	"encoding/binary"
	"math/bits"
)

const (
	minLog     = 5  // of tables that have a description
	maxLog     = 9  // of any table here
	maxSymbols = 64 // of an alphabet: a power of two, so that a mask shows that an index is in bounds
)

// transition is how a symbol changes the state of the encoder.
type transition struct {
	bits  uint32 // added to a state: above 16 bits how many bits of it are written
	state int32  // added to what remains of a state: an index of next
}

// table is an encoder's table of finite state entropy (RFC 8878, section 4.1).
type table struct {
	log     uint8
	norm    [maxSymbols]int16 // the share of each symbol in 1<<log, -1 for less than one
	symbols [maxSymbols]transition
	next    [1 << maxLog]uint16
}

// normalize sets the shares to follow counts, whose sum is total, of symbols up to last.
// There are at least two symbols, at most 1<<log.
func (t *table) normalize(counts *[maxSymbols]uint32, last, total int, log uint8) {
	t.log = log
	t.norm = [maxSymbols]int16{}
	size := 1 << log
	rest, most := size, 0
	scale := uint64(size) << 32 / uint64(total)
	for s, n := range counts[:last+1] {
		if n == 0 {
			continue
		}
		share := max(1, int16((uint64(n)*scale+1<<31)>>32))
		t.norm[s] = share
		rest -= int(share)
		if n > counts[most] {
			most = s
		}
	}
	if rest >= 0 || int(t.norm[most])+rest > int(t.norm[most])/4*3 {
		t.norm[most] += int16(rest)
		return
	}
	for ; rest < 0; rest++ {
		// The symbol loses a part that costs least: its count by its share.
		least, cost := -1, ^uint64(0)
		for s, share := range t.norm[:last+1] {
			if share > 1 {
				if c := uint64(counts[s]) << 16 / uint64(2*share-1); c < cost {
					least, cost = s, c
				}
			}
		}
		t.norm[least]--
	}
}

// build makes the table from the shares, of symbols up to last.
func (t *table) build(last int) {
	size := 1 << t.log
	var spread [1 << maxLog]uint8
	var first [maxSymbols + 1]uint16
	high := size - 1
	for s, share := range t.norm[:last+1] {
		if share < 0 {
			first[s+1] = first[s] + 1
			spread[high] = uint8(s)
			high--
		} else {
			first[s+1] = first[s] + uint16(share)
		}
	}
	at, step, mask := 0, size>>1+size>>3+3, size-1
	for s, share := range t.norm[:last+1] {
		for range share {
			spread[at&(len(spread)-1)] = uint8(s)
			for at = (at + step) & mask; at > high; {
				at = (at + step) & mask
			}
		}
	}
	for i, s := range spread[:size] {
		p := &first[s]
		t.next[*p&(1<<maxLog-1)] = uint16(size + i)
		*p++
	}
	total := int32(0)
	for s, share := range t.norm[:last+1] {
		x := &t.symbols[s]
		switch share {
		case 0:
		case -1, 1:
			x.bits = uint32(t.log)<<16 - 1<<t.log
			x.state = total - 1
			total++
		default:
			most := uint32(t.log) - uint32(bits.Len16(uint16(share-1))-1)
			x.bits = most<<16 - uint32(share)<<most
			x.state = total - int32(share)
			total += int32(share)
		}
	}
}

// begin returns the state that has written the symbol and nothing else.
func (t *table) begin(symbol uint8) uint32 {
	x := t.symbols[symbol]
	n := (x.bits + 1<<15) >> 16
	return uint32(t.next[(n<<16-x.bits)>>n+uint32(x.state)])
}

// describe appends the shares of symbols up to last (section 4.1.1).
func (t *table) describe(out []byte, last int) []byte {
	acc, n := uint64(t.log-minLog), uint(4)
	rest, threshold, width := 1<<t.log+1, 1<<t.log, uint(t.log)+1
	for s := 0; s <= last; {
		share := int(t.norm[s])
		s++
		most := 2*threshold - 1 - rest
		v := share + 1
		rest -= max(share, -share)
		w := width
		if v < most {
			w--
		} else if v >= threshold {
			v += most
		}
		acc |= uint64(v) << n
		n += w
		for ; rest < threshold; threshold >>= 1 {
			width--
		}
		if share == 0 {
			// How many more of this follow.
			zeroes := 0
			for t.norm[s] == 0 {
				zeroes++
				s++
			}
			for ; zeroes >= 3; zeroes -= 3 {
				acc |= 3 << n
				if n += 2; n >= 32 {
					out = binary.LittleEndian.AppendUint32(out, uint32(acc))
					acc >>= 32
					n -= 32
				}
			}
			acc |= uint64(zeroes) << n
			n += 2
		}
		if n >= 32 {
			out = binary.LittleEndian.AppendUint32(out, uint32(acc))
			acc >>= 32
			n -= 32
		}
	}
	for ; n > 0; n -= min(n, 8) {
		out = append(out, byte(acc))
		acc >>= 8
	}
	return out
}
