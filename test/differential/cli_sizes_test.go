package differential

import (
	"testing"
)

// TestCLISizes reads sizes of every spelling with both programs.
func TestCLISizes(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	dir := t.TempDir()
	for _, s := range []string{"0", "1", "+1", " 1", "1 ", "010", "0x10", "0X10", "0x", "0x1.8", "0x10k", "1b", "1B", "1k", "1K", "1m", "1M", "1kB",
		"1.5k", ".5k", "1.k", ".", ".k", "1.", "1.0", "1.5", "1.5b", "0.5b", "1e", "1e3", "1e3k", "1.2e1k", "-1", "-", "-1k", "-0", "-1x", "7E", "8E",
		"7.99E", "15E", "16E", "17E", "18446744073709551615", "18446744073709551616", "9223372036854775808",
		"99999999999999999999k", "1.0000000001k", "0.1k", "0.3M", "1..k", "1.2.3k", "nan", "inf", "1T2", "0.0", "1kk", "1_0", "1,5k",
		"1.999999999999999999999k", "7.9999999999999999999E", "0x8000000000000000", "0xffffffffffffffffff", "-9999999999999999999999", "-5E",
		"1t", "1g", "1p", "++1", "+-1", "0x-1", "٣"} {
		want := runIn(t, dir, tools.img, "measure", "--size", s)
		got := runIn(t, dir, tools.ours, "measure", "--size", s)
		want.stderr, got.stderr = normal(want.stderr), normal(got.stderr)
		if got != want {
			t.Errorf("%q: %+v, want %+v", s, got, want)
		}
		want = runIn(t, dir, tools.img, "resize", "nowhere", s)
		got = runIn(t, dir, tools.ours, "resize", "nowhere", s)
		if got != want {
			t.Errorf("resize %q: %+v, want %+v", s, got, want)
		}
	}
}
