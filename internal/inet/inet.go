// Package inet finds the addresses of host names.
package inet

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/cowl-disk/cowl/internal/message"
)

// Loopback returns the addresses that address, "host:port", means if the host is
// localhost, in the order in which they are to be tried, and else address alone. That name
// is the loopback's on every system (RFC 6761, section 6.3), also where no file of hosts
// says so: a resolver that asks a name server for it would fail, or be told wrong.
// network is "tcp", or "tcp4" or "tcp6" for the address of one family.
func Loopback(network, address string) []string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return []string{address}
	}
	six, four := net.JoinHostPort("::1", port), net.JoinHostPort("127.0.0.1", port)
	switch network {
	case "tcp4":
		return []string{four}
	case "tcp6":
		return []string{six}
	}
	return []string{six, four} // as a system's resolver sorts them (RFC 6724)
}

// Addresses returns all addresses that address, "host:port", means, each again with
// the port. Where the host is empty or an address, that is address alone. network is as
// for Loopback. An error of the resolver is a *net.DNSError.
func Addresses(ctx context.Context, network, address string) ([]string, error) {
	list := Loopback(network, address)
	host, port, err := net.SplitHostPort(address)
	if err != nil || len(list) > 1 || list[0] != address || host == "" || net.ParseIP(host) != nil || strings.Contains(host, "%") {
		return list, nil // errors of the address show when it is used
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip"+strings.TrimPrefix(network, "tcp"), host)
	if err != nil {
		return nil, err
	}
	list = nil
	for _, ip := range ips {
		list = append(list, net.JoinHostPort(ip.Unmap().String(), port))
	}
	return list, nil
}

// Reason words an error of finding an address as getaddrinfo(3) does; nil if err is none.
// The name servers and ports in Go's errors do not help with a mistyped host.
func Reason(err error) error {
	var addr *net.AddrError
	var dns *net.DNSError
	switch {
	case errors.As(err, &addr) && addr.Err == "invalid port", errors.As(err, &dns) && dns.Err == "unknown port":
		return message.Errorf(nil, "servname not supported for ai_socktype")
	case addr != nil && addr.Err == "no suitable address found":
		return message.Errorf(nil, "address family for hostname not supported")
	case dns != nil && dns.IsNotFound:
		return message.Errorf(nil, "name or service not known")
	case dns != nil:
		return message.Errorf(nil, "temporary failure in name resolution")
	}
	return nil
}
