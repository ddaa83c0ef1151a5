// Package huffman makes the lengths of prefix codes.
package huffman

// MaxSymbols is how many symbols a code has at most.
const MaxSymbols = 288

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

// Lengths sets the lengths, in bits, of the best code for the counts of symbols whose
// lengths are at most limit, which has to leave room for all symbols. Symbols that do not occur have length 0,
// and one that occurs alone has length 1. There are as many lengths as counts, at most
// [MaxSymbols]; the sum of the counts is less than 1<<23.
func Lengths(lengths []uint8, counts []int32, limit int) {
	clear(lengths)
	var buffers [2][MaxSymbols]uint32
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
		lengths[buffers[0][0]&(1<<symbolBits-1)] = 1
		return
	}
	used := sortKeys(buffers[0][:n], buffers[1][:n])
	// Two queues, of leaves and of inner nodes, each in order.
	var parent [2 * MaxSymbols]uint16
	var weight [MaxSymbols]uint32
	nextLeaf, nextInner := 0, 0
	take := func(made int) (node int, n uint32) {
		if nextLeaf < len(used) && (nextInner >= made || used[nextLeaf]>>symbolBits <= weight[nextInner]) {
			nextLeaf++
			return nextLeaf - 1, used[nextLeaf-1] >> symbolBits
		}
		nextInner++
		return MaxSymbols + nextInner - 1, weight[nextInner-1]
	}
	inner := len(used) - 1
	for made := range inner {
		a, x := take(made)
		b, y := take(made)
		parent[a], parent[b], weight[made] = uint16(made), uint16(made), x+y
	}
	// Inner nodes come after their children, so that depths follow from the root.
	var depth [MaxSymbols]uint8
	var number [32]int
	for i := inner - 2; i >= 0; i-- {
		depth[i] = depth[parent[MaxSymbols+i]] + 1
	}
	for i := range used {
		number[min(int(depth[parent[i]])+1, limit)]++
	}
	// Where codes were cut to the limit others must get longer.
	total := 0
	for l := 1; l <= limit; l++ {
		total += number[l] << (limit - l)
	}
	for ; total > 1<<limit; total-- {
		number[limit]--
		for l := limit - 1; l > 0; l-- {
			if number[l] > 0 {
				number[l]--
				number[l+1] += 2
				break
			}
		}
	}
	at := 0
	for l := limit; l > 0; l-- {
		for range number[l] {
			lengths[used[at]&(1<<symbolBits-1)] = uint8(l)
			at++
		}
	}
}
