package inet

import (
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
)

func TestLoopback(t *testing.T) {
	for _, test := range []struct {
		network, address string
		want             []string
	}{
		{"tcp", "localhost:10809", []string{"[::1]:10809", "127.0.0.1:10809"}},
		{"tcp4", "localhost:10809", []string{"127.0.0.1:10809"}},
		{"tcp6", "localhost:10809", []string{"[::1]:10809"}},
		{"tcp", "LocalHost.:nbd", []string{"[::1]:nbd", "127.0.0.1:nbd"}},
		{"tcp4", "localhost.example:1", []string{"localhost.example:1"}},
		{"tcp", "a.localhost:1", []string{"a.localhost:1"}},
		{"tcp", "[::1]:5", []string{"[::1]:5"}},
		{"tcp", "localhost", []string{"localhost"}},
	} {
		if got := Loopback(test.network, test.address); !slices.Equal(got, test.want) {
			t.Errorf("%s %s: %v, want %v", test.network, test.address, got, test.want)
		}
	}
}

// TestAddresses: addresses and localhost need no resolver, not even one that fails.
func TestAddresses(t *testing.T) {
	for address, want := range map[string][]string{
		"localhost:7":    {"[::1]:7", "127.0.0.1:7"},
		"127.0.0.1:7":    {"127.0.0.1:7"},
		"[::]:7":         {"[::]:7"},
		"[fe80::1%lo]:7": {"[fe80::1%lo]:7"},
		":7":             {":7"},
		"nothing":        {"nothing"},
	} {
		got, err := Addresses(t.Context(), "tcp", address)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", address, got, err, want)
		}
	}
}

// TestReason makes the errors as a connection does, but for those of a name server.
func TestReason(t *testing.T) {
	dial := func(network, address string) error {
		nc, err := net.Dial(network, address)
		if err == nil {
			nc.Close()
		}
		return err
	}
	for _, test := range []struct {
		want string
		err  error
	}{
		{"servname not supported for ai_socktype", dial("tcp", "127.0.0.1:nosuchservice")},
		{"servname not supported for ai_socktype", dial("tcp", "127.0.0.1:70000")},
		{"address family for hostname not supported", dial("tcp4", "[::1]:1")},
		{"address family for hostname not supported", dial("tcp6", "127.0.0.1:1")},
		{"name or service not known", &net.OpError{Err: &net.DNSError{IsNotFound: true}}},
		{"temporary failure in name resolution", &net.OpError{Err: &net.DNSError{IsTimeout: true}}},
		{"", &net.OpError{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}},
		{"", nil},
	} {
		if got := Reason(test.err); (got == nil) != (test.want == "") || got != nil && got.Error() != test.want {
			t.Errorf("%v: %v, want %q", test.err, got, test.want)
		}
	}
}
