package http

import (
	"fmt"
	"testing"
)

func TestContentRange(t *testing.T) {
	for s, want := range map[string]string{
		"bytes 0-0/1": "0 0 1", "bytes 5-9/10": "5 9 10", "bytes 5-9/*": "5 9 -1", "bytes */0": "0 -1 0", "bytes */*": "0 -1 -1",
		"": "error", "bytes": "error", "bytes 5-9": "error", "bytes 9-5/10": "error", "bytes 5-10/10": "error", "bytes -1-5/10": "error",
		"bytes 5-9/-1": "error", "items 5-9/10": "error", "bytes 99999999999999999999-5/10": "error", "bytes 0-0/0": "error",
	} {
		first, last, total, err := contentRange(s)
		got := fmt.Sprint(first, last, total)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

// FuzzContentRange: what is taken is a range within the object.
func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Add("bytes */0")
	f.Fuzz(func(t *testing.T, s string) {
		first, last, total, err := contentRange(s)
		if err == nil && (first < 0 || last < first-1 || total < -1 || total >= 0 && last >= max(total, 0) && last >= 0) {
			t.Errorf("%q: %d to %d of %d", s, first, last, total)
		}
	})
}
