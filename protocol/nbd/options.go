package nbd

import (
	"cmp"
	"encoding/json"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
	"github.com/cowl-disk/cowl/opts"
)

// openOptions are the options of the driver.
type openOptions struct {
	ServerType     string  `opt:"server.type" help:"Kind of address: inet, unix, vsock or fd"`
	ServerPath     string  `opt:"server.path" help:"Unix socket (server.type=unix)"`
	ServerHost     string  `opt:"server.host" help:"Host name or address (server.type=inet)"`
	ServerPort     string  `opt:"server.port" help:"TCP port, or port of a vsock"`
	ServerCID      string  `opt:"server.cid" help:"Context id (server.type=vsock)"`
	ServerStr      *string `opt:"server.str" help:"Number of a connected socket that the program was started with (server.type=fd)"`
	ServerIPv4     *bool   `opt:"server.ipv4" help:"Whether to use IPv4 addresses"`
	ServerIPv6     *bool   `opt:"server.ipv6" help:"Whether to use IPv6 addresses"`
	Host           string  `opt:"host" help:"TCP host to connect to"`
	Port           string  `opt:"port" help:"TCP port to connect to"`
	Path           string  `opt:"path" help:"Unix socket path to connect to"`
	Export         string  `opt:"export" help:"Name of the NBD export to open"`
	TLSCreds       string  `opt:"tls-creds" help:"ID of the TLS credentials to use"`
	TLSHostname    string  `opt:"tls-hostname" help:"Override hostname for validating TLS x509 certificate"`
	DirtyBitmap    string  `opt:"x-dirty-bitmap" help:"experimental: expose named dirty bitmap in place of block status"`
	ReconnectDelay int64   `opt:"reconnect-delay" help:"On an unexpected disconnect, seconds for which requests wait for a new connection (default 0: they fail)"`
	OpenTimeout    int64   `opt:"open-timeout" help:"Seconds for which connecting is tried at open (default 0: once)"`
	Connections    int64   `opt:"connections" help:"Connections to use at most, where the server lets several act as one (default: 4 for reading, one for writing)"`

	// From nbds URIs.
	TLS             bool   `opt:"tls" help:"Use TLS without credentials of our own, checked by the system's certificates"`
	TLSCertificates string `opt:"tls-certificates" help:"Directory of TLS certificates"`
}

var openSchema = opts.SchemaOf(openOptions{})

// server is where to connect.
type server struct {
	network, address string
	host             string // for the certificate
	shown            string // in messages
	uri              string // without the export
}

func (o *openOptions) server() (server, error) {
	invalid := func(format string, args ...any) (server, error) {
		return server{}, driver.Errorf(driver.ErrInvalid, format, args...)
	}
	kind := o.ServerType
	if kind == "" {
		switch {
		case o.ServerPath != "" || o.ServerHost != "" || o.ServerPort != "" || o.ServerStr != nil:
			return invalid("Parameter 'type' is missing")
		case o.Path != "" && o.Host != "":
			return invalid("path and host may not be used at the same time")
		case o.Path != "" && o.Port != "":
			return invalid("port may not be used without host")
		case o.Path != "":
			kind, o.ServerPath = "unix", o.Path
		case o.Host != "":
			kind, o.ServerHost, o.ServerPort = "inet", o.Host, cmp.Or(o.Port, "10809")
		case o.Port != "":
			return invalid("port may not be used without host")
		default:
			return invalid("NBD server address missing")
		}
	} else if o.Path != "" || o.Host != "" || o.Port != "" {
		return invalid("Cannot use 'server' and path/host/port at the same time")
	}
	needs, known := addressNeeds[kind]
	if !known {
		return invalid("Parameter 'type' does not accept value '%s'", kind)
	}
	for _, name := range needs {
		if !o.has(name) {
			return invalid("Parameter '%s' is missing", name)
		}
	}
	for _, name := range []string{"str", "port", "cid", "ipv4", "ipv6", "host", "path"} {
		if o.has(name) && !slices.Contains(needs, name) && (kind != "inet" || name != "ipv4" && name != "ipv6") {
			return invalid("Parameter '%s' is unexpected", name)
		}
	}
	switch kind {
	case "unix":
		return server{network: "unix", address: o.ServerPath, shown: o.ServerPath, uri: "nbd+unix://"}, nil
	case "inet":
		s := server{network: "tcp", address: net.JoinHostPort(o.ServerHost, o.ServerPort), host: o.ServerHost, shown: o.ServerHost + ":" + o.ServerPort}
		four, six := o.ServerIPv4 == nil || *o.ServerIPv4, o.ServerIPv6 == nil || *o.ServerIPv6
		if o.ServerIPv4 != nil && *o.ServerIPv4 && o.ServerIPv6 == nil {
			six = false
		}
		if o.ServerIPv6 != nil && *o.ServerIPv6 && o.ServerIPv4 == nil {
			four = false
		}
		switch {
		case !four && !six:
			return invalid("Cannot disable IPv4 and IPv6 at same time")
		case !six:
			s.network = "tcp4"
		case !four:
			s.network = "tcp6"
		}
		s.uri = "nbd://" + s.address
		return s, nil
	case "vsock":
		at := o.ServerCID + ":" + o.ServerPort
		return server{network: "vsock", address: at, shown: at, uri: "nbd+vsock://" + at}, nil
	case "fd":
		if o.Connections > 1 {
			return invalid("An inherited socket (server.type=fd) is one connection, not %d", o.Connections)
		}
		return server{network: "fd", address: *o.ServerStr, shown: "descriptor " + *o.ServerStr}, nil
	}
	return server{}, nil
}

// addressNeeds are the parameters that each kind of address must have.
var addressNeeds = map[string][]string{"unix": {"path"}, "inet": {"host", "port"}, "vsock": {"cid", "port"}, "fd": {"str"}}

// has says whether a parameter of the address is given.
func (o *openOptions) has(name string) bool {
	switch name {
	case "str":
		return o.ServerStr != nil
	case "ipv4":
		return o.ServerIPv4 != nil
	case "ipv6":
		return o.ServerIPv6 != nil
	}
	return map[string]string{"path": o.ServerPath, "host": o.ServerHost, "port": o.ServerPort, "cid": o.ServerCID}[name] != ""
}

// check refuses values that make no sense.
func (o *openOptions) check() error {
	for name, n := range map[string]int64{"reconnect-delay": o.ReconnectDelay, "open-timeout": o.OpenTimeout} {
		if n < 0 || n > 1<<31 {
			return driver.Errorf(driver.ErrInvalid, "Parameter '%s' expects a number of seconds", name)
		}
	}
	if o.Connections < 0 || o.Connections > 64 {
		return driver.Errorf(driver.ErrInvalid, "Parameter 'connections' expects a number from 1 to 64")
	}
	if o.DirtyBitmap != "" && len(o.DirtyBitmap) > wire.MaxString {
		return driver.Errorf(driver.ErrInvalid, "x-dirty-bitmap value too long")
	}
	if err := wire.CheckString(o.Export); err != nil {
		return driver.Errorf(driver.ErrInvalid, "export name too long to send to server")
	}
	return nil
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// name is the file name under which the export can be opened again.
func (s server) name(o *openOptions) string {
	export := o.Export
	if s.network == "fd" {
		// There is no URI for it: the options are the name.
		d := map[string]string{"driver": "nbd", "server.type": "fd", "server.str": s.address}
		for k, v := range map[string]string{"export": export, "tls-creds": o.TLSCreds, "tls-hostname": o.TLSHostname} {
			if v != "" {
				d[k] = v
			}
		}
		b, err := json.Marshal(d)
		if err != nil {
			return ""
		}
		return "json:" + string(b)
	}
	if s.network == "unix" {
		path := ""
		if export != "" {
			path = "/" + (&url.URL{Path: export}).EscapedPath()
		}
		return s.uri + path + "?socket=" + s.address
	}
	if export == "" {
		return s.uri
	}
	return s.uri + "/" + (&url.URL{Path: export}).EscapedPath()
}

// parseName reads a file name: a URI, or the older spelling.
func parseName(name string) (opts.Dict, error) {
	scheme, rest, _ := strings.Cut(name, ":")
	if strings.HasPrefix(rest, "//") {
		return parseURI(name)
	}
	bad := func(format string, args ...any) (opts.Dict, error) {
		return nil, driver.Errorf(driver.ErrInvalid, format, args...)
	}
	if scheme != "nbd" {
		return bad("No valid URL specified")
	}
	if rest == "" {
		return opts.Dict{}, nil // the driver says that the address is missing
	}
	at, export, found := strings.Cut(rest, ":exportname=")
	d := opts.Dict{}
	if found {
		d["export"] = export
	}
	if path, ok := strings.CutPrefix(at, "unix:"); ok {
		d["server.type"], d["server.path"] = "unix", path
		return d, nil
	}
	host, port, ok := strings.Cut(at, ":")
	if strings.HasPrefix(at, "[") {
		var err error
		if host, port, err = net.SplitHostPort(at); err != nil {
			return bad("error parsing address '%s'", at)
		}
	} else if !ok {
		return bad("error parsing address '%s'", at)
	}
	d["server.type"], d["server.host"], d["server.port"] = "inet", host, port
	return d, nil
}

func parseURI(name string) (opts.Dict, error) {
	t, err := client.ParseURI(name)
	if err != nil || t.Network == "tcp" && t.Host == "" {
		return nil, driver.Errorf(driver.ErrInvalid, "No valid URL specified")
	}
	d := opts.Dict{}
	if t.Export != "" {
		d["export"] = t.Export
	}
	switch t.Network {
	case "unix":
		d["server.type"], d["server.path"] = "unix", t.Address
	case "vsock":
		cid, port, _ := strings.Cut(t.Address, ":")
		d["server.type"], d["server.cid"], d["server.port"] = "vsock", cid, port
	default:
		_, port, err := net.SplitHostPort(t.Address)
		if err != nil {
			return nil, driver.Errorf(driver.ErrInvalid, "No valid URL specified")
		}
		d["server.type"], d["server.host"], d["server.port"] = "inet", t.Host, port
	}
	if t.TLSPSKFile != "" {
		return nil, driver.Errorf(driver.ErrUnsupported, "TLS with pre-shared keys is not supported: use certificates")
	}
	if t.TLS {
		d["tls"] = "on"
		if t.TLSCertificates != "" {
			d["tls-certificates"] = t.TLSCertificates
		}
		if t.TLSHostname != "" {
			d["tls-hostname"] = t.TLSHostname
		}
	}
	return d, nil
}
