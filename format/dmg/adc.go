package dmg

import (
	"io"

	"github.com/cowl-disk/cowl/internal/chunks"
)

// decodeADC decodes Apple Data Compression (libmodi, "Apple Data Compression"): bytes
// of control that either announce literals or copy from what was decoded.
func decodeADC(dst, src []byte) (int, error) {
	n := 0
	for i := 0; i < len(src); {
		c := int(src[i])
		var length, distance int
		switch {
		case c&0x80 != 0: // literals
			length = c&0x7f + 1
			i++
			if length > len(src)-i {
				return n, io.ErrUnexpectedEOF
			}
			if length > len(dst)-n {
				return n, chunks.ErrLong
			}
			n += copy(dst[n:], src[i:i+length])
			i += length
			continue
		case c&0x40 != 0: // a copy with a distance of two bytes
			if i+3 > len(src) {
				return n, io.ErrUnexpectedEOF
			}
			length, distance = c&0x3f+4, int(src[i+1])<<8|int(src[i+2])
			i += 3
		default:
			if i+2 > len(src) {
				return n, io.ErrUnexpectedEOF
			}
			length, distance = c>>2&0x0f+3, (c&3)<<8|int(src[i+1])
			i += 2
		}
		var err error
		if n, err = copyBack(dst, n, distance+1, length); err != nil {
			return n, err
		}
	}
	return n, nil
}

// copyBack appends to the n bytes of dst length bytes that begin distance bytes before
// their end. The ranges may overlap: then bytes repeat.
func copyBack(dst []byte, n, distance, length int) (int, error) {
	if distance <= 0 || distance > n {
		return n, errDistance
	}
	if length > len(dst)-n {
		return n, chunks.ErrLong
	}
	for length > 0 {
		m := copy(dst[n:n+length], dst[n-distance:n])
		n, length = n+m, length-m
		distance += m // what was appended repeats
	}
	return n, nil
}
