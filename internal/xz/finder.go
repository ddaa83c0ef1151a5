package xz

import (
	"encoding/binary"
	"math/bits"
)

const (
	minMatch = 2
	maxMatch = 273
)

// effort is how much is done for short output.
type effort struct {
	nice  int  // a match of this length is taken without looking further
	depth int  // steps in a tree
	bits  uint // of the table of four bytes, at most
}

// smallBuffer is the size, in bytes, of the largest blocks of squashfs, and of all buffers
// with the lower effort.
const smallBuffer = 1 << 20

// effortFor returns the effort for a buffer. For small ones, more steps and matches of 64
// bytes come to 1 % less in a third more time, and a larger table would not stay in the
// processor's cache. In large ones there are more places to choose from: it comes to 3 %.
func effortFor(n int) effort {
	if n <= smallBuffer {
		return effort{nice: 32, depth: 6, bits: 18}
	}
	return effort{nice: 64, depth: 16, bits: 21}
}

// match is bytes that were there before: length of them, distance+1 bytes back.
type match struct{ length, distance uint32 }

// finder finds matches in one buffer. Positions with the same four bytes are in a binary
// tree, sorted by what follows them; those with the same two or three bytes are
// remembered once.
type finder struct {
	effort
	src   []byte
	pos   int
	base  uint32 // added to positions in the heads: those below are of former buffers
	two   []uint32
	three []uint32
	four  []uint32
	shift uint
	sons  [][2]int32 // of the position in the tree, by its lower bits: a power of two
	found []match
}

// Window is how far back matches are looked for, in bytes: what larger buffers need as
// their dictionary, that of xz at its usual level. It bounds the memory of the finder.
const Window = 8 << 20

const threeBits = 16

func (f *finder) reset(src []byte) {
	if f.two == nil {
		f.two, f.three = make([]uint32, 1<<16), make([]uint32, 1<<threeBits)
	}
	f.effort = effortFor(len(src))
	width := max(10, min(f.bits, uint(bits.Len(uint(len(src))))))
	if f.shift != 32-width || f.base > 1<<31 {
		f.four = make([]uint32, 1<<width)
		f.shift = 32 - width
		clear(f.two)
		clear(f.three)
		f.base = 0
	}
	f.base += uint32(len(f.src)) + 1
	f.src, f.pos = src, 0
	if n := min(len(src), Window); len(f.sons) < n {
		f.sons = make([][2]int32, 1<<bits.Len(uint(n-1)))
	}
}

// heads takes the position into the heads and returns what was there, -1 for nothing that
// is near enough.
func (f *finder) heads() (two, three, four int) {
	v := binary.LittleEndian.Uint32(f.src[f.pos:])
	at := f.base + uint32(f.pos)
	h3 := (v << 8) * 506832829 >> (32 - threeBits)
	h4 := v * 2654435761 >> f.shift
	two, three, four = int(f.two[v&0xffff]), int(f.three[h3]), int(f.four[h4])
	f.two[v&0xffff], f.three[h3], f.four[h4] = at, at, at
	base, low := int(f.base), f.pos-Window
	if two -= base; two <= low {
		two = -1
	}
	if three -= base; three <= low {
		three = -1
	}
	return max(two, -1), max(three, -1), max(four-base, -1)
}

// matches returns the matches at the position, longer ones further away, and goes to the
// next one. The slice is good until the next call.
func (f *finder) matches() []match {
	f.found = f.found[:0]
	limit := min(len(f.src)-f.pos, f.nice)
	if limit < 4 {
		f.pos++
		return f.found
	}
	two, three, four := f.heads()
	longest := 1
	for i, at := range [2]int{two, three} {
		if at < 0 || i == 1 && (at == two || f.src[at] != f.src[f.pos] || f.src[at+1] != f.src[f.pos+1]) {
			continue
		}
		if n := f.commonAt(at, 0, limit); n > longest {
			longest = n
			f.found = append(f.found, match{uint32(n), uint32(f.pos - at - 1)})
		}
	}
	f.tree(four, limit, longest)
	if last := len(f.found) - 1; last >= 0 && f.found[last].length == uint32(f.nice) {
		m := &f.found[last]
		m.length = uint32(f.commonAt(f.pos-int(m.distance)-1, f.nice, min(len(f.src)-f.pos, maxMatch)))
	}
	f.pos++
	return f.found
}

// skip goes over n positions.
func (f *finder) skip(n int) {
	for range n {
		if limit := min(len(f.src)-f.pos, f.nice); limit >= 4 {
			_, _, four := f.heads()
			f.tree(four, limit, limit)
		}
		f.pos++
	}
}

// common returns how many bytes of a and b, which are of one length, are alike. The
// first n are known to be.
func common(a, b []byte, n int) int {
	for n+8 <= len(b) {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
		n += 8
	}
	for n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// commonAt returns how many bytes at are like those at the position, from n up to limit.
func (f *finder) commonAt(at, n, limit int) int {
	return common(f.src[at:][:limit], f.src[f.pos:][:limit], n)
}

// tree puts the position at the root of its tree, whose root was at. Matches that are
// longer than longest are added to found.
func (f *finder) tree(at, limit, longest int) {
	src, sons, p := f.src, f.sons, f.pos
	mask := len(sons) - 1
	low := max(0, p-mask)
	here := src[p : p+limit]
	less, more := &sons[p&mask][0], &sons[p&mask][1] // where the smaller and the larger ones are hung up
	lenLess, lenMore := 0, 0
	for depth := f.depth; ; depth-- {
		if at < low || depth == 0 {
			*less, *more = -1, -1
			return
		}
		there, pair := src[at:][:len(here)], &sons[at&mask]
		n := common(there, here, min(lenLess, lenMore))
		if n > longest {
			longest = n
			f.found = append(f.found, match{uint32(n), uint32(p - at - 1)})
		}
		if n >= len(here) {
			*less, *more = pair[0], pair[1]
			return
		}
		if there[n] < here[n] {
			*less = int32(at)
			less, lenLess = &pair[1], n
			at = int(pair[1])
		} else {
			*more = int32(at)
			more, lenMore = &pair[0], n
			at = int(pair[0])
		}
	}
}
