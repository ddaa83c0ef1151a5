// Package sockaddr is about the addresses of servers in the options of drivers: the
// structure that QEMU calls SocketAddress ("server.type=inet,server.host=…").
package sockaddr

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/inet"
	"github.com/cowl-disk/cowl/opts"
)

// Address is a group of options: declared as a field of a driver's options, or as a
// slice of them for several servers.
type Address struct {
	Type     string  `opt:"type" help:"Kind of address: inet, unix, vsock or fd"`
	Path     string  `opt:"path" help:"Unix socket (type=unix)"`
	Abstract *bool   `opt:"abstract" help:"Whether the socket has its name in the abstract namespace (type=unix, Linux)"`
	Tight    *bool   `opt:"tight" help:"Whether the name of an abstract socket ends where its text does (default: on)"`
	Host     string  `opt:"host" help:"Host name or address (type=inet)"`
	Port     string  `opt:"port" help:"TCP port, or port of a vsock"`
	IPv4     *bool   `opt:"ipv4" help:"Whether to use IPv4 addresses"`
	IPv6     *bool   `opt:"ipv6" help:"Whether to use IPv6 addresses"`
	CID      string  `opt:"cid" help:"Context id (type=vsock)"`
	Str      *string `opt:"str" help:"Number of a connected socket that the program was started with (type=fd)"`
}

// Given says whether any of the options is.
func (a *Address) Given() bool { return *a != Address{} }

// Old fills a with the older spelling of an address, which the options host, port and
// path of a driver are: a is not Given else. defaultPort is used for a port that is not
// given.
func (a *Address) Old(host, port, path, defaultPort string) error {
	switch {
	case a.Given():
		if path != "" || host != "" || port != "" {
			return driver.Errorf(driver.ErrInvalid, "cannot use 'server' and path/host/port at the same time")
		}
	case path != "" && host != "":
		return driver.Errorf(driver.ErrInvalid, "path and host may not be used at the same time")
	case host == "" && port != "":
		return driver.Errorf(driver.ErrInvalid, "port may not be used without host")
	case path != "":
		*a = Address{Type: "unix", Path: path}
	case host != "":
		*a = Address{Type: "inet", Host: host, Port: cmp.Or(port, defaultPort)}
	}
	return nil
}

// needs are the options that each kind of address must have, takes those that it may.
var (
	needs = map[string][]string{"unix": {"path"}, "inet": {"host", "port"}, "vsock": {"cid", "port"}, "fd": {"str"}}
	takes = map[string][]string{"unix": {"abstract", "tight"}, "inet": {"ipv4", "ipv6"}}
)

// given returns the names of the options that are, but for the type.
func (a *Address) given() (names []string) {
	for _, o := range []struct {
		name string
		is   bool
	}{
		{"str", a.Str != nil}, {"port", a.Port != ""}, {"cid", a.CID != ""}, {"ipv4", a.IPv4 != nil}, {"ipv6", a.IPv6 != nil},
		{"host", a.Host != ""}, {"path", a.Path != ""}, {"abstract", a.Abstract != nil}, {"tight", a.Tight != nil},
	} {
		if o.is {
			names = append(names, o.name)
		}
	}
	return names
}

// Endpoint checks the options and returns where to connect. None given is an error.
func (a *Address) Endpoint() (*Endpoint, error) {
	invalid := func(format string, args ...any) (*Endpoint, error) {
		return nil, driver.Errorf(driver.ErrInvalid, format, args...)
	}
	if a.Type == "" {
		return invalid("parameter 'type' is missing")
	}
	required, known := needs[a.Type]
	if !known {
		return invalid("parameter 'type' does not accept value '%s'", a.Type)
	}
	given := a.given()
	for _, name := range required {
		if !slices.Contains(given, name) {
			return invalid("parameter '%s' is missing", name)
		}
	}
	for _, name := range given {
		if !slices.Contains(required, name) && !slices.Contains(takes[a.Type], name) {
			return invalid("parameter '%s' is unexpected", name)
		}
	}
	e := &Endpoint{Network: a.Type}
	switch a.Type {
	case "unix":
		e.Address = a.Path
		if a.Abstract != nil && *a.Abstract {
			e.Address = "@" + a.Path
			if a.Tight != nil && !*a.Tight {
				return invalid("an abstract socket whose name is padded (tight=off) cannot be used")
			}
		}
		e.shown = e.Address
	case "inet":
		return a.inet()
	case "vsock":
		e.Address = a.CID + ":" + a.Port
		e.shown = e.Address
	case "fd":
		e.Address, e.shown = *a.Str, "descriptor "+*a.Str
	}
	return e, nil
}

// inet chooses among the families: one that is asked for excludes the other, unless
// that is asked for, too.
func (a *Address) inet() (*Endpoint, error) {
	e := &Endpoint{Network: "tcp", Address: net.JoinHostPort(a.Host, a.Port), Host: a.Host, shown: a.Host + ":" + a.Port}
	asked := func(family, other *bool) bool {
		if family != nil {
			return *family
		}
		return other == nil || !*other
	}
	switch four, six := asked(a.IPv4, a.IPv6), asked(a.IPv6, a.IPv4); {
	case !four && !six:
		return nil, driver.Errorf(driver.ErrInvalid, "cannot disable IPv4 and IPv6 at same time")
	case !six:
		e.Network = "tcp4"
	case !four:
		e.Network = "tcp6"
	}
	return e, nil
}

// Options are the address as options with a prefix, as they are in the name of a node
// ("server.type"): those that Endpoint needs.
func (a *Address) Options(prefix string) opts.Dict {
	d := opts.Dict{prefix + ".type": a.Type}
	for name, v := range map[string]string{"path": a.Path, "host": a.Host, "port": a.Port, "cid": a.CID} {
		if v != "" {
			d[prefix+"."+name] = v
		}
	}
	if a.Str != nil {
		d[prefix+".str"] = *a.Str
	}
	for name, v := range map[string]*bool{"abstract": a.Abstract, "tight": a.Tight, "ipv4": a.IPv4, "ipv6": a.IPv6} {
		if v != nil {
			d[prefix+"."+name] = *v
		}
	}
	return d
}

// Endpoint is where a server is.
type Endpoint struct {
	Network string // "tcp", "tcp4", "tcp6", "unix", "vsock" or "fd"
	Address string // as inet.Dial takes it; the number of a descriptor
	Host    string // of an inet address, for certificates
	shown   string
	taken   atomic.Bool
}

// String is the address for messages.
func (e *Endpoint) String() string { return e.shown }

// Error words an error of Dial.
func (e *Endpoint) Error(err error) error {
	if e.Network == "fd" {
		return driver.Errorf(driver.ErrInvalid, "%w", err)
	}
	if reason := inet.Reason(err); reason != nil {
		return driver.Errorf(driver.ErrInvalid, "address resolution failed for %s: %w", e.shown, reason)
	}
	kind := driver.ErrInvalid
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		kind = errors.Join(driver.ErrInvalid, driver.ErrTimeout)
	}
	if no := errnoOf(err); no != nil {
		err = no
	}
	return driver.Errorf(kind, "failed to connect to '%s': %w", e.shown, err)
}
