// Package zero finds zeroes in memory, at memory speed.
package zero

import (
	"bytes"
	"encoding/binary"
)

// page is what ranges are compared with. It stays in the first level cache, so
// that comparing costs one stream of memory, with the runtime's vector code.
var page [4096]byte

// IsZero reports whether every byte of b is zero. It is true for an empty b.
func IsZero(b []byte) bool {
	n := len(b)
	if n >= 8 {
		// Most data shows in its first, last or middle word: no call needed.
		w := binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[n-8:]) |
			binary.LittleEndian.Uint64(b[n/2-4:])
		if w != 0 {
			return false
		}
	}
	for len(b) >= len(page) {
		if !bytes.Equal(b[:len(page)], page[:]) {
			return false
		}
		b = b[len(page):]
	}
	return bytes.Equal(b, page[:len(b)])
}

// Prefix returns the length of the longest leading part of b made of units of
// unit bytes that are all zero (zeroes true) or none of which is zero (zeroes
// false). A last unit that is shorter counts as one. unit must be positive.
func Prefix(b []byte, zeroes bool, unit int) int {
	for off := 0; off < len(b); {
		n := min(unit, len(b)-off)
		if IsZero(b[off:off+n]) != zeroes {
			return off
		}
		off += n
	}
	return len(b)
}
