package qmp

import (
	"cmp"
	"iter"
	"slices"
)

// A value of the stream is one of: nil (null), bool, int64, uint64 (integers that
// int64 does not hold), float64, string, []any, *Dict.

// buckets is the number of chains in QEMU's hash table for objects.
const buckets = 512

// Dict is an object. It iterates over its members in the order in which QEMU
// iterates over its hash table: by bucket, and the newest first within one. The zero
// value is an empty object. A Dict may be read by several goroutines once it is
// complete.
type Dict struct {
	members []member       // in the order of their insertion
	index   map[string]int // into members; nil while there are few
}

type member struct {
	key   string
	value any
}

// few is the number of members up to which a search is faster than an index.
const few = 8

// bucketOf is the chain of QEMU's hash table that a key belongs to.
func bucketOf(key string) int {
	h := uint32(0x238F13AF) * uint32(len(key))
	for i := range len(key) {
		h += uint32(key[i]) << (uint(i) * 5 % 24)
	}
	return int((1103515243*h + 12345) % buckets)
}

func (d *Dict) find(key string) int {
	if d.index != nil {
		if i, ok := d.index[key]; ok {
			return i
		}
		return -1
	}
	for i := range d.members {
		if d.members[i].key == key {
			return i
		}
	}
	return -1
}

// Get returns a member.
func (d *Dict) Get(key string) (value any, ok bool) {
	if i := d.find(key); i >= 0 {
		return d.members[i].value, true
	}
	return nil, false
}

// Put sets a member. A member that is there already keeps its place.
func (d *Dict) Put(key string, value any) {
	if i := d.find(key); i >= 0 {
		d.members[i].value = value
		return
	}
	d.members = append(d.members, member{key, value})
	switch {
	case d.index != nil:
		d.index[key] = len(d.members) - 1
	case len(d.members) > few:
		d.index = make(map[string]int)
		for i := range d.members {
			d.index[d.members[i].key] = i
		}
	}
}

// Len returns the number of members.
func (d *Dict) Len() int { return len(d.members) }

// All iterates over the members in QEMU's order.
func (d *Dict) All() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for _, i := range order(len(d.members), func(i int) string { return d.members[i].key }) {
			if !yield(d.members[i].key, d.members[i].value) {
				return
			}
		}
	}
}

// order returns the numbers of n keys, which are numbered as they were inserted, in
// QEMU's order.
func order(n int, key func(int) string) []int {
	type place struct{ bucket, i int }
	places := make([]place, n)
	for i := range places {
		places[i] = place{bucketOf(key(i)), i}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(a.bucket-b.bucket, b.i-a.i)
	})
	numbers := make([]int, n)
	for i, p := range places {
		numbers[i] = p.i
	}
	return numbers
}
