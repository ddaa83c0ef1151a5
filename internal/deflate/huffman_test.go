package deflate

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

// TestNoAllocation: an encoder that was used before needs no memory.
func TestNoAllocation(t *testing.T) {
	var e Encoder
	in := inputs()["mixed"]
	out := make([]byte, 0, 2*len(in))
	if n := testing.AllocsPerRun(5, func() { out, _ = e.Append(out[:0], in, 1<<30) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
