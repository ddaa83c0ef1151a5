package qemuio

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/opts"
)

// maxRequest is the longest request in bytes: 2 GiB less one sector, as in QEMU.
const maxRequest = math.MaxInt32 &^ 511

// errFailed says that a command failed; what there is to say has been said.
var errFailed = errors.New("failed")

// number reads an offset or a length.
func (s *session) number(text string) (int64, error) {
	n, err := opts.ParseSizeUint(text, 'b')
	switch {
	case errors.Is(err, opts.ErrSizeRange), err == nil && n > math.MaxInt64:
		return 0, s.failf("Parsing error: argument too large -- %s", text)
	case err != nil:
		return 0, s.failf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s", text)
	}
	return int64(n), nil
}

// offsetAndLength reads the two numbers that most commands end with.
func (s *session) offsetAndLength(operands []string) (off, n int64, err error) {
	if off, err = s.number(operands[0]); err == nil {
		n, err = s.number(operands[1])
	}
	return off, n, err
}

// lengths reads the lengths of several buffers, and returns their sum.
func (s *session) lengths(operands []string) (int64, error) {
	sum := int64(0)
	for _, text := range operands {
		n, err := s.number(text)
		if err != nil {
			return 0, err
		}
		if n > maxRequest {
			return 0, s.failf("Argument '%s' exceeds maximum size %d", text, maxRequest)
		}
		if sum > maxRequest-n {
			return 0, s.failf("The total number of bytes exceed the maximum size %d", maxRequest)
		}
		sum += n
	}
	return sum, nil
}

// aligned refuses what is no multiple of a sector.
func (s *session) aligned(off, n int64) error {
	if off%512 != 0 {
		return s.failf("%d is not a sector-aligned value for 'offset'", off)
	}
	if n%512 != 0 {
		return s.failf("%d is not a sector-aligned value for 'count'", n)
	}
	return nil
}

// amount prints a number of bytes with the largest unit that fits.
func amount(v float64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := 0
	for i < len(units)-1 && v >= 1024 {
		v /= 1024
		i++
	}
	text := fmt.Sprintf("%.3f", v)
	if i == 0 {
		text = fmt.Sprintf("%f", v)
	}
	// From the point on all goes, even if only the first three digits are zeroes.
	if whole, _, ok := strings.Cut(text, ".000"); ok {
		text = whole
	}
	return text + " " + units[i]
}

// span prints how long something took.
func span(d time.Duration, fixed bool) string {
	sec := int64(d / time.Second)
	part := float64(sec%60) + (d % time.Second).Seconds()
	if fixed || sec > 0 {
		return fmt.Sprintf("%d:%02d:%05.2f", sec/3600, sec%3600/60, part)
	}
	return fmt.Sprintf("%05.2f sec", part)
}

// report prints what a request did: of total bytes at off, in d.
func (s *session) report(what string, d time.Duration, off, count int64, machine bool) {
	perSecond := float64(count) / d.Seconds()
	ops := 1 / d.Seconds()
	if machine {
		s.printf("%d,%d,%s,%.3f,%.3f\n", count, 1, span(d, true), perSecond, ops)
		return
	}
	s.printf("%s %d/%d bytes at offset %d\n%s, %d ops; %s (%s/sec and %.4f ops/sec)\n",
		what, count, count, off, amount(float64(count)), 1, span(d, false), amount(perSecond), ops)
}

// dump prints bytes, 16 on a line, as numbers and as characters.
func (s *session) dump(p []byte, off int64) {
	var b strings.Builder
	for i := 0; i < len(p); i += 16 {
		row := p[i:min(i+16, len(p))]
		fmt.Fprintf(&b, "%08x:  ", off+int64(i))
		for _, c := range row {
			fmt.Fprintf(&b, "%02x ", c)
		}
		b.WriteByte(' ')
		for _, c := range row {
			if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' {
				b.WriteByte(c)
			} else {
				b.WriteByte('.')
			}
		}
		b.WriteByte('\n')
		if b.Len() > 1<<16 {
			s.printf("%s", b.String())
			b.Reset()
		}
	}
	s.printf("%s", b.String())
}
