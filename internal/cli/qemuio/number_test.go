package qemuio

import (
	"testing"
	"time"
)

func TestAmount(t *testing.T) {
	for v, want := range map[float64]string{0: "0 bytes", 1: "1 bytes", 1023: "1023 bytes", 1024: "1 KiB", 1536: "1.500 KiB", 1 << 20: "1 MiB",
		1<<20 + 100: "1 MiB", 5 << 40: "5 TiB", 1 << 62: "4 EiB", 0.5: "0.500000 bytes", 1025: "1.001 KiB"} {
		if got := amount(v); got != want {
			t.Errorf("amount(%v) = %q, not %q", v, got, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for _, c := range []struct {
		d     time.Duration
		fixed bool
		want  string
	}{
		{120 * time.Millisecond, false, "00.12 sec"}, {120 * time.Millisecond, true, "0:00:00.12"}, {61500 * time.Millisecond, false, "0:01:01.50"},
		{2*time.Hour + 3*time.Second, false, "2:00:03.00"},
	} {
		if got := span(c.d, c.fixed); got != c.want {
			t.Errorf("span(%v, %v) = %q, not %q", c.d, c.fixed, got, c.want)
		}
	}
}

func TestComplete(t *testing.T) {
	s := &session{commands: commands()}
	for start, want := range map[string]string{"rea": "read", "aio_f": "aio_flush", "wri": "write", "zzz": "zzz", "remo": "remove_break", "re": "re"} {
		if got := s.complete(start); got != want {
			t.Errorf("complete(%q) = %q, not %q", start, got, want)
		}
	}
}

// TestCommands: the table is whole, and no name stands for two.
func TestCommands(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range commands() {
		for _, name := range []string{c.name, c.alias} {
			if name != "" && seen[name] {
				t.Errorf("%s stands for two commands", name)
			}
			seen[name] = true
		}
		if c.about == "" || c.run == nil {
			t.Errorf("%s is not whole", c.name)
		}
	}
}
