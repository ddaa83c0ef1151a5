package testkit

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

const modelPage = 4096

// Model is what a disk should hold: sparse, simple, in memory. It is not safe
// for concurrent use.
type Model struct {
	size  int64
	pages map[int64]*[modelPage]byte
}

// NewModel makes a model of size bytes, all zero.
func NewModel(size int64) *Model {
	return &Model{size: size, pages: map[int64]*[modelPage]byte{}}
}

// Size is the size of the disk.
func (m *Model) Size() int64 { return m.size }

// each calls f for the part of every page in a range. p is nil for pages that
// hold nothing, unless make is set.
func (m *Model) each(off, n int64, make bool, f func(done int64, p []byte, length int64)) {
	if off < 0 || n < 0 || off+n > m.size {
		panic(fmt.Sprintf("testkit: %d bytes at %d of a disk of %d", n, off, m.size))
	}
	for done := int64(0); done < n; {
		i, in := (off+done)/modelPage, (off+done)%modelPage
		length := min(modelPage-in, n-done)
		page := m.pages[i]
		if page == nil && make {
			page = new([modelPage]byte)
			m.pages[i] = page
		}
		if page == nil {
			f(done, nil, length)
		} else {
			f(done, page[in:in+length], length)
		}
		done += length
	}
}

// Write puts p at off.
func (m *Model) Write(p []byte, off int64) {
	m.each(off, int64(len(p)), true, func(done int64, page []byte, _ int64) { copy(page, p[done:]) })
}

// Zero makes n bytes at off zero.
func (m *Model) Zero(off, n int64) {
	m.each(off, n, false, func(_ int64, page []byte, _ int64) { clear(page) })
}

// Resize changes the size; new bytes are zero.
func (m *Model) Resize(size int64) {
	if size < m.size {
		m.Zero(size, m.size-size)
	}
	m.size = size
}

// Read returns n bytes at off.
func (m *Model) Read(off, n int64) []byte {
	out := make([]byte, n)
	m.each(off, n, false, func(done int64, page []byte, _ int64) { copy(out[done:], page) })
	return out
}

// Diff compares got with what is at off. It returns "" if they are equal and
// else says where they differ first.
func (m *Model) Diff(got []byte, off int64) (diff string) {
	m.each(off, int64(len(got)), false, func(done int64, page []byte, n int64) {
		if page == nil {
			page = noPage[:n]
		}
		if diff != "" || bytes.Equal(got[done:done+n], page) {
			return
		}
		i := done
		for got[i] == page[i-done] {
			i++
		}
		diff = fmt.Sprintf("byte %d (%d of %d at %d) is %#x, want %#x", off+i, i, len(got), off, got[i], page[i-done])
	})
	return diff
}

// noPage is what a page that holds nothing reads as.
var noPage [modelPage]byte

// DiffZero says where n bytes at off are not zero first. It returns "" if all are.
func (m *Model) DiffZero(off, n int64) (diff string) {
	m.each(off, n, false, func(done int64, page []byte, _ int64) {
		if diff != "" || bytes.Equal(page, noPage[:len(page)]) {
			return
		}
		i := 0
		for page[i] == 0 {
			i++
		}
		diff = fmt.Sprintf("byte %d is %#x", off+done+int64(i), page[i])
	})
	return diff
}

// Clone returns an independent copy.
func (m *Model) Clone() *Model {
	c := NewModel(m.size)
	for i, p := range m.pages {
		page := *p
		c.pages[i] = &page
	}
	return c
}

// Rand returns a generator whose sequence depends on seed alone.
func Rand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)) }

// Fill fills p with bytes that do not compress.
func Fill(r *rand.Rand, p []byte) {
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, r.Uint64())
		p = p[8:]
	}
	for i := range p {
		p[i] = byte(r.Uint32())
	}
}

// fillText fills p with text in which some characters are those that should follow.
func fillText(r *rand.Rand, p []byte) {
	const text = "the quick brown fox t" // the last one follows the one before the first
	for i, at := 0, 0; i < len(p); i++ {
		p[i] = text[at+r.IntN(2)]
		if at++; at == len(text)-1 {
			at = 0
		}
	}
}

// FillDisk fills p like a disk in use: runs of zeroes, of one repeated byte, of
// text-like and of random bytes, on boundaries of 512 bytes.
func FillDisk(r *rand.Rand, p []byte) {
	for len(p) > 0 {
		n := min(len(p), (1+r.IntN(256))*512)
		switch r.IntN(4) {
		case 0:
			clear(p[:n])
		case 1:
			p[0] = byte(1 + r.IntN(255))
			for done := 1; done < n; done *= 2 {
				copy(p[done:n], p[:done])
			}
		case 2:
			fillText(r, p[:n])
		default:
			Fill(r, p[:n])
		}
		p = p[n:]
	}
}
