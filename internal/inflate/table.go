package inflate

import "math/bits"

// Entries of a table. The low byte is how many bits the symbol takes: those of its
// code, and of numbers those that are added as well. The next byte has the bits of the
// code alone, and the upper half a literal, the base of a number, or the start of a
// second table, which bits beyond those of the first one index.
const (
	literalFlag = 1 << 31
	otherFlag   = 1 << 15 // none of the usual: with one of the next two, or invalid
	moreFlag    = 1 << 14 // a second table; its number of bits is in the next byte
	endFlag     = 1 << 13 // the end of the block

	invalid = otherFlag
)

const (
	literalBits  = 11
	distanceBits = 8
	lengthBits   = 7 // of codes for lengths of codes, which have no second table

	// The most entries that tables with codes of 15 bits have (as zlib's "enough"
	// computes them).
	literalEntries  = 2342
	distanceEntries = 402

	maxCode    = 15
	literals   = 288
	distances  = 32
	lengthSyms = 19
)

// lengthBase and distanceBase are the numbers that symbols begin with, and how many
// bits are added (section 3.2.5).
var (
	lengthBase = [...]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthMore = [...]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
)

func literalEntry(symbol, n int) uint32 {
	switch {
	case symbol < 256:
		return literalFlag | uint32(symbol)<<16 | uint32(n)
	case symbol == 256:
		return otherFlag | endFlag | uint32(n)
	case symbol-257 < len(lengthBase):
		i := symbol - 257
		return uint32(lengthBase[i])<<16 | uint32(n)<<8 | uint32(n+int(lengthMore[i]))
	}
	return invalid
}

func distanceEntry(symbol, n int) uint32 {
	if symbol >= 30 {
		return invalid
	}
	more := max(0, symbol/2-1)
	base := symbol + 1
	if symbol > 1 {
		base = (2+symbol&1)<<more + 1
	}
	return uint32(base)<<16 | uint32(n)<<8 | uint32(n+more)
}

func lengthEntry(symbol, n int) uint32 { return uint32(symbol)<<16 | uint32(n) }

// build makes the table of a code from the lengths of its symbols, 0 for those that are
// not used. root is how many bits index the first table. It returns false if the
// lengths make no code. A code of one symbol, or none, may be incomplete.
func build(table []uint32, lens []uint8, root int, entry func(symbol, n int) uint32) bool {
	var count [maxCode + 1]int
	for _, n := range lens {
		count[n]++
	}
	used := len(lens) - count[0]
	count[0] = 0
	left := 1
	for n := 1; n <= maxCode; n++ {
		if left = left<<1 - count[n]; left < 0 {
			return false
		}
	}
	if left > 0 {
		if used > 1 || used == 1 && count[1] == 0 {
			return false
		}
		for i := range table[:1<<root] {
			table[i] = invalid
		}
	}
	var next [maxCode + 1]int // where symbols of a length go in the order of codes
	for n := 1; n < maxCode; n++ {
		next[n+1] = next[n] + count[n]
	}
	var sorted [literals]uint16
	for s, n := range lens {
		if n > 0 {
			sorted[next[n]] = uint16(s)
			next[n]++
		}
	}
	// table[:1<<length] is the table of the codes up to that length. The one of the next
	// length starts as two copies of it.
	code, length := uint32(0), 1
	second, secondBits, prefix := 1<<root, 0, uint32(1<<32-1)
	rest := count // of symbols that have no entry yet
	for _, s := range sorted[:used] {
		for rest[length] == 0 {
			if length < root {
				copy(table[1<<length:2<<length], table[:1<<length])
			}
			length++
			code <<= 1
		}
		reversed := bits.Reverse32(code) >> (32 - length)
		if length <= root {
			table[reversed] = entry(int(s), length)
		} else {
			if p := reversed & (1<<root - 1); p != prefix {
				// Another second table, large enough for the codes that begin so.
				second += 1 << secondBits
				if prefix == 1<<32-1 {
					second = 1 << root
				}
				prefix, secondBits = p, length-root
				for room := rest[length]; room < 1<<secondBits && root+secondBits < maxCode; {
					secondBits++
					room = room<<1 + rest[root+secondBits]
				}
				table[p] = otherFlag | moreFlag | uint32(second)<<16 | uint32(secondBits)<<8 | uint32(root)
			}
			e := entry(int(s), length-root)
			for i := int(reversed >> root); i < 1<<secondBits; i += 1 << (length - root) {
				table[second+i] = e
			}
		}
		code++
		rest[length]--
	}
	for ; length < root; length++ {
		copy(table[1<<length:2<<length], table[:1<<length])
	}
	return true
}
