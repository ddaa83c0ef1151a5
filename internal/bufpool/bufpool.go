// Package bufpool lends buffers for I/O: aligned for direct I/O, of power of two
// sizes, reused so that a steady load allocates nothing. Up to 8 MiB of free buffers stay with the process.
package bufpool

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	// Align is the alignment of every buffer, enough for direct I/O on any
	// device with blocks of up to 4 KiB.
	Align = 4096

	minShift = 12 // the smallest buffer is 4 KiB
	maxShift = 26 // larger ones than 64 MiB are not kept
)

// pools holds pointers to the first byte of free buffers, by power of two.
// Pointers, not slices: storing a slice in an interface allocates.
var pools [maxShift - minShift + 1]sync.Pool

const (
	// Buffers of chunks of a disk, from 64 KiB to 2 MiB, are kept in shelves first: the collector empties pools, so that all of
	// their memory would be asked of the system again and again, and a pool has places for each processor.
	shelfMin = 16 - minShift
	shelfMax = 21 - minShift
	// maxShelved is how many bytes are kept so, together.
	maxShelved = 8 << 20
)

// shelf is a stack of free buffers: what was given back last is the most likely to be in a cache.
type shelf struct {
	mu   sync.Mutex
	free []*byte
}

var (
	shelves [shelfMax - shelfMin + 1]shelf
	shelved atomic.Int64 // bytes
)

// take returns a buffer of a class, nil if none is kept.
func take(c int) *byte {
	if c < shelfMin || c > shelfMax {
		return nil
	}
	s := &shelves[c-shelfMin]
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.free) - 1
	if last < 0 {
		return nil
	}
	p := s.free[last]
	s.free = s.free[:last]
	shelved.Add(-1 << (c + minShift))
	return p
}

// keep keeps a buffer of a class, if there is room for it.
func keep(c int, p *byte) bool {
	if c < shelfMin || c > shelfMax {
		return false
	}
	size := int64(1) << (c + minShift)
	if shelved.Add(size) > maxShelved {
		shelved.Add(-size)
		return false
	}
	s := &shelves[c-shelfMin]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, p)
	return true
}

// class returns the pool of buffers that hold n bytes, -1 if none does.
func class(n int) int {
	if n <= 1<<minShift {
		return 0
	}
	c := bits.Len(uint(n-1)) - minShift
	if c > maxShift-minShift {
		return -1
	}
	return c
}

// Get returns a buffer of length n whose address is a multiple of Align. Its
// content is arbitrary. Its capacity may be larger than n, and may be used.
func Get(n int) []byte {
	c := class(n)
	if c < 0 {
		return aligned((n + Align - 1) &^ (Align - 1))[:n]
	}
	size := 1 << (c + minShift)
	if p := take(c); p != nil {
		return unsafe.Slice(p, size)[:n]
	}
	if p, ok := pools[c].Get().(*byte); ok {
		return unsafe.Slice(p, size)[:n]
	}
	return aligned(size)[:n]
}

// Put gives back a buffer that Get returned, or one resliced from its start.
// The caller must not use it any more. Other buffers, and nil, are left to the
// garbage collector.
func Put(b []byte) {
	size := cap(b)
	if size < 1<<minShift || size&(size-1) != 0 {
		return
	}
	c := class(size)
	p := unsafe.SliceData(b)
	if c < 0 || uintptr(unsafe.Pointer(p))%Align != 0 {
		return
	}
	if !keep(c, p) {
		pools[c].Put(p)
	}
}

// aligned allocates n bytes, a multiple of Align. The allocator places objects
// of such sizes on page boundaries by itself; should that change, we allocate
// more and cut.
func aligned(n int) []byte {
	b := make([]byte, n)
	if uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align == 0 {
		return b
	}
	b = make([]byte, n+Align)
	skip := Align - int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align)
	return b[skip : skip+n : skip+n]
}
