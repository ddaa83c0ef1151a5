package opts

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ErrSize is returned for text that is not a size.
var ErrSize = errors.New("not a size")

// sizeShift gives the power of two of each suffix.
var sizeShift = map[byte]uint{'b': 0, 'k': 10, 'm': 20, 'g': 30, 't': 40, 'p': 50, 'e': 60}

// ParseSize reads a size in bytes with an optional suffix b, k, M, G, T, P or E
// in either case (powers of 1024). Decimal numbers may have a fraction if the
// suffix makes up for it; hexadecimal ones (0x…) have neither fraction nor
// suffix. The result fits int64.
func ParseSize(s string) (int64, error) {
	return ParseSizeUnit(s, 'b')
}

// ParseSizeUnit is ParseSize with unit as the suffix of numbers that have none.
func ParseSizeUnit(s string, unit byte) (int64, error) {
	t := strings.TrimLeft(s, " \t\n")
	if t == "" || t[0] == '-' || t[0] == '+' {
		return 0, fmt.Errorf("%w: %q", ErrSize, s)
	}
	if strings.HasPrefix(t, "0x") || strings.HasPrefix(t, "0X") {
		n, err := strconv.ParseUint(t[2:], 16, 63)
		if err != nil {
			return 0, fmt.Errorf("%w: %q", ErrSize, s)
		}
		return int64(n), nil
	}
	if c := t[len(t)-1]; c < '0' || c > '9' {
		if c != '.' {
			unit = c | 0x20
			t = t[:len(t)-1]
		}
	}
	shift, ok := sizeShift[unit|0x20]
	if !ok {
		return 0, fmt.Errorf("%w: %q", ErrSize, s)
	}
	whole, frac, hasFrac := strings.Cut(t, ".")
	var n uint64
	if whole != "" {
		var err error
		if n, err = strconv.ParseUint(whole, 10, 63); err != nil {
			return 0, fmt.Errorf("%w: %q", ErrSize, s)
		}
	} else if !hasFrac || frac == "" {
		return 0, fmt.Errorf("%w: %q", ErrSize, s)
	}
	if n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%w: %q is too large", ErrSize, s)
	}
	n <<= shift
	if hasFrac && frac != "" {
		for _, c := range frac {
			if c < '0' || c > '9' {
				return 0, fmt.Errorf("%w: %q", ErrSize, s)
			}
		}
		f, err := strconv.ParseFloat("0."+frac, 64)
		if err != nil || (f != 0 && shift == 0) {
			return 0, fmt.Errorf("%w: %q has a fraction of a byte", ErrSize, s)
		}
		n += uint64(f * float64(uint64(1)<<shift))
		if n > math.MaxInt64 {
			return 0, fmt.Errorf("%w: %q is too large", ErrSize, s)
		}
	}
	return int64(n), nil
}
