// Package inet finds the addresses that host names stand for.
package inet

import (
	"net"
	"strings"
)

// Loopback returns the addresses that address, "host:port", stands for if the host is
// localhost, IPv4 first, and else address alone. That name is the loopback's on every
// system (RFC 6761, section 6.3), also where no file of hosts says so: a resolver that
// asks a name server for it would fail, or be told wrong.
func Loopback(address string) []string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return []string{address}
	}
	return []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
}
