package inet

import (
	"slices"
	"testing"
)

func TestLoopback(t *testing.T) {
	for address, want := range map[string][]string{
		"localhost:10809":   {"127.0.0.1:10809", "[::1]:10809"},
		"LocalHost.:nbd":    {"127.0.0.1:nbd", "[::1]:nbd"},
		"localhost.example": {"localhost.example"},
		"a.localhost:1":     {"a.localhost:1"},
		"[::1]:5":           {"[::1]:5"},
		"localhost":         {"localhost"},
	} {
		if got := Loopback(address); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}
