package vsock

import "testing"

func TestParseAddr(t *testing.T) {
	for s, want := range map[string]string{"2:10809": "2:10809", ":1": "4294967295:1", "x:1": "", "1": "", "1:-1": ""} {
		a, err := ParseAddr(s)
		if (err == nil) != (want != "") || err == nil && a.String() != want {
			t.Errorf("%s: %v, %v", s, a, err)
		}
	}
}
