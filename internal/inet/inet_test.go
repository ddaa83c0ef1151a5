package inet

import (
	"slices"
	"testing"
)

func TestLoopback(t *testing.T) {
	for _, c := range []struct {
		network, address string
		want             []string
	}{
		{"tcp", "localhost:10809", []string{"127.0.0.1:10809", "[::1]:10809"}},
		{"tcp", "LocalHost.:nbd", []string{"127.0.0.1:nbd", "[::1]:nbd"}},
		{"tcp4", "localhost:1", []string{"127.0.0.1:1"}},
		{"tcp6", "localhost:1", []string{"[::1]:1"}},
		{"unix", "localhost:1", []string{"localhost:1"}},
		{"tcp", "localhost.example", []string{"localhost.example"}},
		{"tcp", "a.localhost:1", []string{"a.localhost:1"}},
		{"tcp6", "[::1]:5", []string{"[::1]:5"}},
		{"tcp", "localhost", []string{"localhost"}},
	} {
		if got := Loopback(c.network, c.address); !slices.Equal(got, c.want) {
			t.Errorf("%s %s: %v, want %v", c.network, c.address, got, c.want)
		}
	}
}
