package opts

import (
	"errors"
	"math"
	"strconv"
	"testing"
)

func TestParseNumber(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
		err  error
	}{
		{"16", 16, nil},
		{"+16", 16, nil},
		{" \t16", 16, nil},
		{"0x10", 16, nil},
		{"020", 16, nil},
		{"-0", 0, nil},
		{"-1", math.MaxInt64, nil},
		{"-18446744073709551600", 16, nil},
		{"18446744073709551615", math.MaxInt64, nil},
		{"18446744073709551616", 0, strconv.ErrRange},
		{"-18446744073709551616", 0, strconv.ErrRange},
		{"", 0, strconv.ErrSyntax},
		{"-", 0, strconv.ErrSyntax},
		{"+-1", 0, strconv.ErrSyntax},
		{"- 1", 0, strconv.ErrSyntax},
		{"16 ", 0, strconv.ErrSyntax},
		{"1_6", 0, strconv.ErrSyntax},
		{"0b1", 0, strconv.ErrSyntax},
		{"0o7", 0, strconv.ErrSyntax},
	} {
		got, err := parseNumber(c.text)
		if !errors.Is(err, c.err) || err == nil && got != c.want {
			t.Errorf("%q: %d, %v; want %d, %v", c.text, got, err, c.want, c.err)
		}
	}
}
