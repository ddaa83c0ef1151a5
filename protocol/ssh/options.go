package ssh

import (
	"cmp"
	"encoding/json"
	"net"
	"net/url"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/sockaddr"
	"github.com/cowl-disk/cowl/opts"
)

// server is the address: that of an inet socket, without a type.
type server struct {
	Host string `opt:"host" help:"Host name or address, or a Host of ~/.ssh/config"`
	Port string `opt:"port" help:"TCP port"`
	IPv4 *bool  `opt:"ipv4" help:"Whether to use IPv4 addresses"`
	IPv6 *bool  `opt:"ipv6" help:"Whether to use IPv6 addresses"`
}

// hostKey says how the key of the server is checked.
type hostKey struct {
	Mode string `opt:"mode" help:"How the host key is checked: none, hash or known_hosts (default)"`
	Type string `opt:"type" help:"Kind of the hash: md5, sha1 or sha256 (mode=hash)"`
	Hash string `opt:"hash" help:"Hash of the host key in hexadecimal digits; colons are ignored (mode=hash)"`
}

// openOptions are the options of the driver.
type openOptions struct {
	Server         server  `opt:"server"`
	Host           string  `opt:"host" help:"Older spelling of server.host"`
	Port           string  `opt:"port" help:"Older spelling of server.port"`
	Path           string  `opt:"path" help:"Path of the file on the server"`
	User           string  `opt:"user" help:"User name on the server (default: that of ~/.ssh/config, else your own)"`
	HostKey        hostKey `opt:"host-key-check"`
	HostKeyOld     string  `opt:"host_key_check" help:"Older spelling of host-key-check: yes, no, md5:HASH, sha1:HASH or sha256:HASH"`
	PasswordSecret string  `opt:"password-secret" help:"ID of the secret that holds the password of the user"`
	Identity       string  `opt:"identity" help:"File of the private key to use, in place of those of ~/.ssh"`
	KeySecret      string  `opt:"key-secret" help:"ID of the secret that decrypts private keys"`
	Timeout        int64   `opt:"timeout" default:"30" help:"Seconds without any progress after which a connection is given up; 0: never"`
	Connections    int64   `opt:"connections" help:"Connections to use at most (default: 4; if the server is near, one a processor, 2 to 4)"`

	// From URLs.
	Unknown string `opt:"unknown-parameters" help:"Names of parameters in the URL that mean nothing, to warn of"`
}

var openSchema = opts.SchemaOf(openOptions{})

const (
	defaultPort    = "22"
	maxTimeout     = 10000 // seconds
	maxConnections = 64
)

// own are the options that a URL may have as parameters, beside host_key_check.
var own = []string{"password-secret", "identity", "key-secret", "timeout", "connections"}

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// parseName reads a URL.
func parseName(name string) (opts.Dict, error) {
	u, err := url.Parse(name)
	if err != nil {
		return nil, invalid("invalid URI '%s'", driver.HidePassword(name))
	}
	if _, ok := u.User.Password(); ok {
		return nil, invalid("a URL cannot hold a password: name a secret with password-secret")
	}
	switch {
	case u.Scheme != "ssh" && u.Scheme != "sftp":
		return nil, invalid("URI scheme must be 'ssh'")
	case u.Hostname() == "":
		return nil, invalid("missing hostname in URI")
	case u.Path == "":
		return nil, invalid("missing remote path in URI")
	}
	d := opts.Dict{"server.host": u.Hostname(), "path": u.Path}
	if name := u.User.Username(); name != "" {
		d["user"] = name
	}
	if port := u.Port(); port != "" {
		d["server.port"] = port
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, invalid("invalid URI '%s'", driver.HidePassword(name))
	}
	var unknown []string
	for k, v := range q {
		if k == "host_key_check" || slices.Contains(own, k) {
			d[k] = v[0]
		} else {
			unknown = append(unknown, k)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		d["unknown-parameters"] = strings.Join(unknown, "\n")
	}
	return d, nil
}

// decode reads and checks options.
func decode(d opts.Dict, env *driver.Env) (*openOptions, error) {
	o := &openOptions{}
	if err := openSchema.Decode(d, o); err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(o.Unknown, "\n") {
		if name != "" && env != nil && env.Warn != nil {
			env.Warn("Unsupported parameter '" + name + "' in URI")
		}
	}
	switch {
	case o.Server != server{} && (o.Host != "" || o.Port != ""):
		return nil, invalid("cannot use 'server' and host/port at the same time")
	case o.Host == "" && o.Port != "":
		return nil, invalid("port may not be used without host")
	case o.Host != "":
		o.Server.Host, o.Server.Port = o.Host, o.Port
	}
	switch {
	case o.Server.Host == "":
		return nil, invalid("parameter '%s' is missing", "server")
	case o.Path == "":
		return nil, invalid("parameter 'path' is missing")
	case o.Timeout < 0 || o.Timeout > maxTimeout:
		return nil, invalid("parameter 'timeout' expects a number of seconds up to %d", maxTimeout)
	case o.Connections < 0 || o.Connections > maxConnections:
		return nil, invalid("parameter 'connections' expects a number from 1 to %d", maxConnections)
	}
	if p := o.Server.Port; p != "" {
		if _, err := strconv.ParseUint(p, 10, 16); err != nil {
			if o.Port != "" {
				return nil, invalid("parameter '%s' expects a number", "port")
			}
			return nil, invalid("use only numeric port value")
		}
	}
	return o, o.checkHostKey()
}

// checkHostKey turns the older spelling into the newer one and refuses what makes no sense.
func (o *openOptions) checkHostKey() error {
	k := &o.HostKey
	if old := o.HostKeyOld; old != "" {
		if *k != (hostKey{}) {
			return invalid("host_key_check and host-key-check may not be used at the same time")
		}
		kind, hash, hashed := strings.Cut(old, ":")
		switch {
		case old == "no":
			k.Mode = "none"
		case old == "yes":
			k.Mode = "known_hosts"
		case hashed && (kind == "md5" || kind == "sha1" || kind == "sha256"):
			*k = hostKey{"hash", kind, hash}
		default:
			return invalid("unknown host_key_check setting (%s)", old)
		}
	}
	switch k.Mode {
	case "", "none", "known_hosts":
		if k.Type != "" || k.Hash != "" {
			return invalid("parameter '%s' is unexpected", "host-key-check."+map[bool]string{true: "type", false: "hash"}[k.Type != ""])
		}
	case "hash":
		switch {
		case k.Type == "":
			return invalid("parameter '%s' is missing", "host-key-check.type")
		case k.Hash == "":
			return invalid("parameter '%s' is missing", "host-key-check.hash")
		case k.Type != "md5" && k.Type != "sha1" && k.Type != "sha256":
			return invalid("parameter '%s' does not accept value '%s'", "type", k.Type)
		}
	default:
		return invalid("parameter '%s' does not accept value '%s'", "mode", k.Mode)
	}
	return nil
}

// endpoint is where to connect, with what ~/.ssh/config says.
func (o *openOptions) endpoint(host, port string) (*sockaddr.Endpoint, error) {
	a := sockaddr.Address{Type: "inet", Host: host, Port: port, IPv4: o.Server.IPv4, IPv6: o.Server.IPv6}
	return a.Endpoint()
}

func (o *openOptions) timeout() time.Duration { return time.Duration(o.Timeout) * time.Second }

// name is the file name under which the file can be opened again: a URL, or all options
// where there is none that says as much.
func (o *openOptions) name(user, port string) string {
	host := o.Server.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	d := opts.Dict{}
	for k, v := range map[string]string{"password-secret": o.PasswordSecret, "identity": o.Identity, "key-secret": o.KeySecret} {
		if v != "" {
			d[k] = v
		}
	}
	for k, v := range map[string]*bool{"server.ipv4": o.Server.IPv4, "server.ipv6": o.Server.IPv6} {
		if v != nil {
			d[k] = *v
		}
	}
	if len(d) == 0 {
		s := "ssh://" + user + "@" + host + ":" + port + o.Path
		if o.HostKeyOld != "" {
			s += "?host_key_check=" + o.HostKeyOld
		}
		return s
	}
	d["driver"], d["path"], d["user"], d["server.host"], d["server.port"] = "ssh", o.Path, user, o.Server.Host, port
	for k, v := range map[string]string{"host-key-check.mode": o.HostKey.Mode, "host-key-check.type": o.HostKey.Type, "host-key-check.hash": o.HostKey.Hash} {
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

// address is host and port as known_hosts and the dialler take them.
func address(host, port string) string { return net.JoinHostPort(host, cmp.Or(port, defaultPort)) }

// localUser is the name of the user that runs this process.
func localUser() string {
	if u, err := user.Current(); err == nil {
		name := u.Username
		if i := strings.LastIndexByte(name, '\\'); i >= 0 { // DOMAIN\user
			name = name[i+1:]
		}
		return name
	}
	return ""
}
