package qmp

// validCodepoint reports whether modified UTF-8 may hold a code point: within
// Unicode, neither a surrogate nor a noncharacter.
func validCodepoint(r rune) bool {
	switch {
	case r < 0 || r > 0x10FFFF, 0xFDD0 <= r && r <= 0xFDEF, r&0xFFFE == 0xFFFE, 0xD800 <= r && r <= 0xDFFF:
		return false
	}
	return true
}

// decodeRune decodes the sequence at the start of s, which is not empty. r is -1 if
// it is invalid; n is what it takes anyway: the first byte and the continuation
// bytes that it announces, as far as they are there.
func decodeRune[T string | []byte](s T) (r rune, n int) {
	c := s[0]
	switch {
	case c == 0:
		return -1, 1
	case c < 0x80:
		return rune(c), 1
	case c >= 0xFE || c&0x40 == 0:
		return -1, 1
	}
	length := 0
	mask := byte(0x80)
	for ; c&mask != 0; mask >>= 1 {
		length++
	}
	cp := uint32(c & (mask - 1))
	for n = 1; n < length; n++ {
		if n == len(s) || s[n]&0xC0 != 0x80 {
			return -1, n
		}
		cp = cp<<6 | uint32(s[n]&0x3F)
	}
	if !validCodepoint(rune(cp)) {
		return -1, n
	}
	// The least code point of each length; U+0000 may take two bytes.
	least := [...]uint32{0x80, 0x800, 0x10000, 0x200000, 0x4000000}
	if cp < least[length-2] && (cp != 0 || length != 2) {
		return -1, n
	}
	return rune(cp), n
}

// appendRune encodes a code point, and reports false for one that is not valid.
func appendRune(p []byte, r rune) ([]byte, bool) {
	switch {
	case !validCodepoint(r):
		return p, false
	case 0 < r && r <= 0x7F:
		return append(p, byte(r)), true
	case r <= 0x7FF:
		return append(p, 0xC0|byte(r>>6), 0x80|byte(r&0x3F)), true
	case r <= 0xFFFF:
		return append(p, 0xE0|byte(r>>12), 0x80|byte(r>>6&0x3F), 0x80|byte(r&0x3F)), true
	}
	return append(p, 0xF0|byte(r>>18), 0x80|byte(r>>12&0x3F), 0x80|byte(r>>6&0x3F), 0x80|byte(r&0x3F)), true
}
