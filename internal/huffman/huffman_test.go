package huffman

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSortKeys: by count, and by symbol where counts are equal, for counts of one byte
// to three.
func TestSortKeys(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, most := range []uint32{1, 3, 255, 256, 65535, 65536, 1<<23 - 1} {
		for _, n := range []int{1, 2, 30, 286} {
			keys := make([]uint32, n)
			for s := range keys {
				keys[s] = (1+r.Uint32N(most))<<symbolBits | uint32(s)
			}
			want := slices.Clone(keys)
			slices.Sort(want)
			if got := sortKeys(keys, make([]uint32, n)); !slices.Equal(got, want) {
				t.Errorf("%d counts up to %d: %v, want %v", n, most, got, want)
			}
		}
	}
}

// TestLengths: codes are complete, keep the limit, and give shorter lengths to what occurs
// more often; without a limit in the way they have the best size.
func TestLengths(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		counts := make([]int32, 1+r.IntN(MaxSymbols))
		shape := r.IntN(3)
		used := 0
		for s := range counts {
			switch {
			case r.IntN(4) == 0:
				continue
			case shape == 0:
				counts[s] = 1 + r.Int32N(100)
			case shape == 1: // that ask for codes longer than the limit
				counts[s] = 1 + int32(1)<<min(s%16, 14)
			default:
				counts[s] = 1 + r.Int32N(1+r.Int32N(4000))
			}
			used++
		}
		limit := 9 + r.IntN(7)
		lengths := make([]uint8, len(counts))
		for s := range lengths {
			lengths[s] = 99
		}
		Lengths(lengths, counts, limit)
		room, size := 1<<limit, 0
		for s, l := range lengths {
			if (l > 0) != (counts[s] > 0) || int(l) > limit {
				t.Fatalf("symbol %d, which occurs %d times, has %d bits of at most %d", s, counts[s], l, limit)
			}
			if l > 0 {
				room -= 1 << (limit - int(l))
				size += int(counts[s]) * int(l)
			}
			for u := range s {
				if l > 0 && lengths[u] > 0 && (counts[s] > counts[u] && l > lengths[u] || counts[s] < counts[u] && l < lengths[u]) {
					t.Fatalf("counts %d and %d have %d and %d bits", counts[s], counts[u], l, lengths[u])
				}
			}
		}
		switch {
		case used == 0 && room != 1<<limit, used == 1 && room != 1<<(limit-1), used > 1 && room != 0:
			t.Fatalf("%d symbols of up to %d bits leave %d", used, limit, room)
		case slices.Max(lengths) < uint8(limit) && used > 1 && size != best(counts):
			t.Fatalf("%d bits, not %d", size, best(counts))
		}
	}
}

// best is the size of the best code: the sum of all inner nodes of a tree.
func best(counts []int32) (size int) {
	var nodes []int
	for _, n := range counts {
		if n > 0 {
			nodes = append(nodes, int(n))
		}
	}
	for len(nodes) > 1 {
		slices.Sort(nodes)
		n := nodes[0] + nodes[1]
		size += n
		nodes = append(nodes[2:], n)
	}
	return size
}
