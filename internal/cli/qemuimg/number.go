package qemuimg

import (
	"errors"
	"fmt"
	"math"

	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/opts"
)

// number reads a number with an optional size suffix, between low and high.
// what names it in the message.
func number(what, text string, low, high int64) (int64, error) {
	n, err := opts.ParseSizeUint(text, 'b')
	if err != nil && !errors.Is(err, opts.ErrSizeRange) {
		return 0, fmt.Errorf("Invalid %s specified: '%s'", what, text)
	}
	if err != nil || n > math.MaxInt64 || int64(n) < low || int64(n) > high {
		return 0, fmt.Errorf("Invalid %s specified. Must be between %d and %d.", what, low, high)
	}
	return int64(n), nil
}

// size reads a size or an offset.
func size(what, text string) (int64, error) { return number(what, text, 0, math.MaxInt64) }

// numberOption declares an option with a number from low to high, which what names
// in messages.
func numberOption[T int | int64 | byte](v *T, spelling, help, what string, low, high int64) program.Option {
	return program.Func(spelling, help, func(arg string) error {
		n, err := number(what, arg, low, high)
		if err == nil {
			*v = T(n)
		}
		return err
	})
}

// sizeOption declares an option with a size or an offset.
func sizeOption(v *int64, spelling, help, what string) program.Option {
	return numberOption(v, spelling, help, what, 0, math.MaxInt64)
}
