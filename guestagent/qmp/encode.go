package qmp

import (
	"math"
	"strconv"
	"strings"
)

// Append appends a value in QEMU's form: ": " and ", " between the parts, characters
// outside of ASCII as \uXXXX, floats with 17 digits. It panics for a type that is no
// value of the stream.
func Append(p []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(p, "null"...)
	case bool:
		return strconv.AppendBool(p, v)
	case int64:
		return strconv.AppendInt(p, v, 10)
	case uint64:
		return strconv.AppendUint(p, v, 10)
	case float64:
		return appendFloat(p, v)
	case string:
		return appendString(p, v)
	case []any:
		p = append(p, '[')
		for i, x := range v {
			if i > 0 {
				p = append(p, ", "...)
			}
			p = Append(p, x)
		}
		return append(p, ']')
	case *Dict:
		p = append(p, '{')
		first := true
		for k, x := range v.All() {
			if !first {
				p = append(p, ", "...)
			}
			first = false
			p = Append(append(appendString(p, k), ": "...), x)
		}
		return append(p, '}')
	}
	panic("qmp: not a value of the stream")
}

const upperHex = "0123456789ABCDEF"

func appendUnit(p []byte, u rune) []byte {
	return append(p, '\\', 'u', upperHex[u>>12&15], upperHex[u>>8&15], upperHex[u>>4&15], upperHex[u&15])
}

// appendString quotes a string. It ends at a NUL byte, as strings of C do.
func appendString(p []byte, s string) []byte {
	p = append(p, '"')
	for i := 0; i < len(s) && s[i] != 0; {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			p = append(p, '\\', c)
			i++
		case 0x20 <= c && c < 0x7F:
			p = append(p, c)
			i++
		case c < 0x80 && strings.IndexByte("\b\f\n\r\t", c) >= 0:
			p = append(p, '\\', "btn?fr"[c-'\b'])
			i++
		default:
			r, n := decodeRune(s[i:])
			if r < 0 {
				r = 0xFFFD
			}
			if r > 0xFFFF {
				p = appendUnit(p, 0xD800+(r-0x10000)>>10)
				r = 0xDC00 + (r-0x10000)&0x3FF
			}
			p = appendUnit(p, r)
			i += n
		}
	}
	return append(p, '"')
}

// appendFloat writes what printf writes for %.17g.
func appendFloat(p []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(p, "inf"...)
	case math.IsInf(f, -1):
		return append(p, "-inf"...)
	case math.IsNaN(f):
		return append(p, "nan"...)
	}
	return strconv.AppendFloat(p, f, 'g', 17, 64)
}
