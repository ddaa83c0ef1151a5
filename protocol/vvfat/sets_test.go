package vvfat

import (
	"slices"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestSorted: extents that have clusters in common become ones that have none, and each byte
// stays in its cluster.
func TestSorted(t *testing.T) {
	a, b, c := &item{name: "a"}, &item{name: "b"}, &item{name: "c"}
	got := contents{{first: 10, count: 5, it: b}, {first: 2, count: 10, off: 100, it: a}, {first: 3, count: 2, it: c}}.sorted(1000)
	want := contents{{first: 2, count: 10, off: 100, it: a}, {first: 12, count: 3, off: 2000, it: b}}
	if !slices.EqualFunc(got, want, func(x, y extent) bool {
		return x.first == y.first && x.count == y.count && x.off == y.off && x.it == y.it
	}) {
		t.Errorf("%+v", got)
	}
}

// TestSectorSet compares with a plain list.
func TestSectorSet(t *testing.T) {
	r := testkit.Rand(1)
	set, plain := sectorSet{}, make([]bool, 1000)
	for range 500 {
		first := r.Int64N(1000)
		n := min(r.Int64N(150), 1000-first)
		if r.IntN(3) == 0 && n < 20 {
			set.add(first, n)
			for i := range n {
				plain[first+i] = true
			}
		}
		n = 1000 - first
		in, count := set.run(first, n)
		want := int64(1)
		for want < n && plain[first+want] == plain[first] {
			want++
		}
		if in != plain[first] || count != want {
			t.Fatalf("at %d: %v for %d, want %v for %d", first, in, count, plain[first], want)
		}
		if n > 10 && set.any(first, 10) != slices.Contains(plain[first:first+10], true) {
			t.Fatalf("any at %d", first)
		}
	}
}
