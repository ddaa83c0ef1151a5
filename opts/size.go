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

// ErrSizeRange is returned for sizes that are negative or too large. It is an
// ErrSize too.
var ErrSizeRange = fmt.Errorf("%w: out of range", ErrSize)

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
	n, err := ParseSizeUint(s, unit)
	if err != nil {
		return 0, err
	}
	if n > math.MaxInt64 {
		return 0, sizeError(ErrSizeRange, s)
	}
	return int64(n), nil
}

func sizeError(kind error, s string) error { return fmt.Errorf("%w: %q", kind, s) }

// ParseSizeUint is ParseSizeUnit for sizes up to 2^64-1.
func ParseSizeUint(s string, unit byte) (uint64, error) {
	t := strings.TrimLeft(s, " \t\n\v\f\r")
	negative := false
	if t != "" && (t[0] == '-' || t[0] == '+') {
		negative = t[0] == '-'
		t = t[1:]
	}
	if hex, ok := cutHex(t); ok {
		n, err := strconv.ParseUint(hex, 16, 64)
		switch {
		case err == nil && !negative:
			return n, nil
		case err == nil || errors.Is(err, strconv.ErrRange):
			return 0, sizeError(ErrSizeRange, s)
		}
		return 0, sizeError(ErrSize, s)
	}
	whole, t := digits(t)
	n, err := strconv.ParseUint(whole, 10, 64)
	if whole != "" && (err != nil || negative) {
		// Out of range, unless it is not a number.
		if t != "" {
			return 0, sizeError(ErrSize, s)
		}
		return 0, sizeError(ErrSizeRange, s)
	}
	fraction := 0.0
	if strings.HasPrefix(t, ".") {
		var frac string
		frac, t = digits(t[1:])
		if whole == "" && frac == "" || negative {
			return 0, sizeError(ErrSize, s)
		}
		if frac != "" {
			// A long fraction rounds, as a float does.
			fraction, _ = strconv.ParseFloat("0."+frac, 64)
		}
	} else if whole == "" {
		return 0, sizeError(ErrSize, s)
	}
	if t != "" {
		unit, t = t[0], t[1:]
	}
	shift, ok := sizeShift[unit|0x20]
	if !ok || t != "" || fraction != 0 && shift == 0 {
		return 0, sizeError(ErrSize, s)
	}
	if n > math.MaxUint64>>shift {
		return 0, sizeError(ErrSizeRange, s)
	}
	n <<= shift
	part := uint64(fraction * float64(uint64(1)<<shift))
	if n > math.MaxUint64-part {
		return 0, sizeError(ErrSizeRange, s)
	}
	return n + part, nil
}

func cutHex(s string) (string, bool) {
	if strings.HasPrefix(s, "0x") || strings.HasPrefix(s, "0X") {
		return s[2:], true
	}
	return "", false
}

// digits splits s after its leading decimal digits.
func digits(s string) (head, tail string) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}
