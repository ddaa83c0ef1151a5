package opts

import (
	"errors"
	"math"
	"testing"
)

func TestParseSize(t *testing.T) {
	ok := map[string]int64{"0": 0, "1": 1, "+1": 1, " 1": 1, "010": 10, "0x10": 16, "0X1b": 27, "1b": 1, "1B": 1, "1k": 1024, "1K": 1024,
		"3m": 3 << 20, "1.5k": 1536, ".5k": 512, "1.k": 1024, "1.": 1, "1.0": 1, "0.0": 0, "1.0000000001k": 1024, "0.3M": 314572,
		"1.999999999999999999999k": 2048, "1e": 1 << 60, "7.5E": 15 << 59, "9223372036854775807": math.MaxInt64, "2T": 2 << 40, "1P": 1 << 50}
	for s, want := range ok {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "1 ", "0x", "0x1.8", "0x10k", "1kB", ".", ".k", "1.5", "1.5b", "1e3", "1.2e1k", "-", "-1k", "-1x", "-5E",
		"99999999999999999999k", "1..k", "1.2.3k", "nan", "inf", "1T2", "1kk", "1_0", "1,5k", "x", "+", "+-1", "- 1", "-.5k", "1q", "0x1_0"} {
		if n, err := ParseSize(s); !errors.Is(err, ErrSize) || errors.Is(err, ErrSizeRange) {
			t.Errorf("ParseSize(%q) = %d, %v; want ErrSize alone", s, n, err)
		}
	}
	for _, s := range []string{"-1", "-0", "8E", "16E", "17E", "18446744073709551616", "9223372036854775808", "7.9999999999999999999E",
		"0x8000000000000000", "0xffffffffffffffffff", "-9999999999999999999999", "-0x1"} {
		if n, err := ParseSize(s); !errors.Is(err, ErrSizeRange) {
			t.Errorf("ParseSize(%q) = %d, %v; want ErrSizeRange", s, n, err)
		}
	}
	if n, err := ParseSizeUint("15E", 'b'); err != nil || n != 15<<60 {
		t.Errorf("ParseSizeUint(15E) = %d, %v", n, err)
	}
	if n, err := ParseSizeUnit("3", 'M'); err != nil || n != 3<<20 {
		t.Errorf("ParseSizeUnit(3, M) = %d, %v", n, err)
	}
}
