package client

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/nbd/wire"
)

// Target says where an export is, as an NBD URI does.
type Target struct {
	Network string // "tcp", "unix" or "vsock"
	Address string // host:port, path of the socket, or cid:port
	Host    string // without the port, "" for unix
	Export  string
	TLS     bool // the server must be made to use TLS
	// TLS parameters of the query: a directory of certificates, a user name and a
	// file of pre-shared keys, the name that the certificate must have.
	TLSCertificates, TLSUsername, TLSPSKFile, TLSHostname string
}

// ParseURI reads an NBD URI (doc/uri.md of the NetworkBlockDevice project):
// nbd://host:port/export, nbd+unix:///export?socket=path, nbd+vsock://cid:port/export,
// and the same with nbds. Parameters that are not known are ignored, as the
// document asks.
func ParseURI(s string) (t Target, err error) {
	u, err := url.Parse(s)
	if err != nil {
		return t, fmt.Errorf("NBD URI '%s' is not valid: %w", s, err)
	}
	scheme, transport, _ := strings.Cut(u.Scheme, "+")
	switch scheme {
	case "nbd":
	case "nbds":
		t.TLS = true
	default:
		return t, fmt.Errorf("'%s' is not an NBD URI", s)
	}
	if u.Opaque != "" || u.Fragment != "" {
		return t, fmt.Errorf("NBD URI '%s' is not valid", s)
	}
	q := u.Query()
	t.Export = strings.TrimPrefix(u.Path, "/")
	t.TLSCertificates, t.TLSUsername = q.Get("tls-certificates"), q.Get("tls-username")
	t.TLSPSKFile, t.TLSHostname = q.Get("tls-psk-file"), q.Get("tls-hostname")
	if t.TLSUsername == "" && u.User != nil {
		t.TLSUsername = u.User.Username()
	}
	if err := wire.CheckString(t.Export); err != nil {
		return t, err
	}
	port := u.Port()
	if port == "" {
		port = strconv.Itoa(wire.DefaultPort)
	}
	switch transport {
	case "", "tcp":
		t.Network, t.Host = "tcp", u.Hostname()
		host := t.Host
		if host == "" {
			host = "localhost"
		}
		t.Address = net.JoinHostPort(host, port)
	case "unix":
		if q.Get("socket") == "" {
			return t, fmt.Errorf("NBD URI '%s' needs the parameter socket", s)
		}
		if u.Host != "" {
			return t, fmt.Errorf("NBD URI '%s' has a host and a socket", s)
		}
		t.Network, t.Address = "unix", q.Get("socket")
		return t, nil
	case "vsock":
		t.Network, t.Host = "vsock", u.Hostname()
		if t.Host == "" {
			t.Host = "2" // the host, from a guest
		}
		if _, err := strconv.ParseUint(t.Host, 10, 32); err != nil {
			return t, fmt.Errorf("NBD URI '%s' has no valid context id", s)
		}
		t.Address = t.Host + ":" + port
	default:
		return t, fmt.Errorf("NBD URI '%s' has an unknown transport '%s'", s, transport)
	}
	if t.Network != "unix" && q.Get("socket") != "" {
		return t, fmt.Errorf("NBD URI '%s' has a socket, but is not of the scheme %s+unix", s, scheme)
	}
	return t, nil
}
