package nbd

import (
	"encoding/json"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/sockaddr"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
	"github.com/cowl-disk/cowl/opts"
)

// openOptions are the options of the driver.
type openOptions struct {
	Server         sockaddr.Address `opt:"server"`
	Host           string           `opt:"host" help:"TCP host to connect to"`
	Port           string           `opt:"port" help:"TCP port to connect to"`
	Path           string           `opt:"path" help:"Unix socket path to connect to"`
	Export         string           `opt:"export" help:"Name of the NBD export to open"`
	TLSCreds       string           `opt:"tls-creds" help:"ID of the TLS credentials to use"`
	TLSHostname    string           `opt:"tls-hostname" help:"Override hostname for validating TLS x509 certificate"`
	DirtyBitmap    string           `opt:"x-dirty-bitmap" help:"experimental: expose named dirty bitmap in place of block status"`
	ReconnectDelay int64            `opt:"reconnect-delay" help:"On an unexpected disconnect, seconds for which requests wait for a new connection (default 0: they fail)"`
	OpenTimeout    int64            `opt:"open-timeout" help:"Seconds for which connecting is tried at open (default 0: once)"`
	Connections    int64            `opt:"connections" help:"Connections to use at most, where the server lets several act as one (default: 4 for reading, one for writing)"`

	// From nbds URIs.
	TLS             bool   `opt:"tls" help:"Use TLS without credentials of our own, checked by the system's certificates"`
	TLSCertificates string `opt:"tls-certificates" help:"Directory of TLS certificates"`
}

var openSchema = opts.SchemaOf(openOptions{})

// defaultPort is that of the old spelling of an address.
const defaultPort = "10809"

// endpoint returns where to connect.
func (o *openOptions) endpoint() (*sockaddr.Endpoint, error) {
	if err := o.Server.Old(o.Host, o.Port, o.Path, defaultPort); err != nil {
		return nil, err
	}
	if !o.Server.Given() {
		return nil, driver.Errorf(driver.ErrInvalid, "NBD server address missing")
	}
	e, err := o.Server.Endpoint()
	if err == nil && e.Network == "fd" && o.Connections > 1 {
		return nil, driver.Errorf(driver.ErrInvalid, "an inherited socket (server.type=fd) is one connection, not %d", o.Connections)
	}
	return e, err
}

// check refuses values that make no sense.
func (o *openOptions) check() error {
	for name, n := range map[string]int64{"reconnect-delay": o.ReconnectDelay, "open-timeout": o.OpenTimeout} {
		if n < 0 || n > 1<<31 {
			return driver.Errorf(driver.ErrInvalid, "parameter '%s' expects a number of seconds", name)
		}
	}
	if o.Connections < 0 || o.Connections > 64 {
		return driver.Errorf(driver.ErrInvalid, "parameter 'connections' expects a number from 1 to 64")
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
func (o *openOptions) name(at *sockaddr.Endpoint) string {
	path := ""
	if o.Export != "" {
		path = "/" + (&url.URL{Path: o.Export}).EscapedPath()
	}
	switch at.Network {
	case "unix":
		if o.Server.Abstract == nil {
			return "nbd+unix://" + path + "?socket=" + at.Address
		}
	case "vsock":
		return "nbd+vsock://" + at.Address + path
	case "tcp", "tcp4", "tcp6":
		return "nbd://" + at.Address + path
	}
	// There is no URI for it: the options are the name.
	d := o.Server.Options("server")
	d["driver"] = "nbd"
	for k, v := range map[string]string{"export": o.Export, "tls-creds": o.TLSCreds, "tls-hostname": o.TLSHostname} {
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
		return bad("file name string for NBD must start with 'nbd:'")
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
		return nil, driver.Errorf(driver.ErrInvalid, "no valid URL specified")
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
			return nil, driver.Errorf(driver.ErrInvalid, "no valid URL specified")
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
