package gluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/opts"
)

// openOptions are the options of the driver.
type openOptions struct {
	Filename string   `opt:"filename" help:"URL of the file"`
	Volume   *string  `opt:"volume" help:"Name of the volume"`
	Path     *string  `opt:"path" help:"Path of the file in the volume"`
	Server   []server `opt:"server"`
	Debug    *int64   `opt:"debug" runtime:"on" help:"Level of the library's log, from 0 to 9 (default: 4)"`
	LogFile  string   `opt:"logfile" runtime:"on" help:"File of the library's log (default: standard error)"`
	Timeout  int64    `opt:"timeout" runtime:"on" help:"Seconds without an answer after which a request fails (default 0: it waits for the server)"`

	rdma bool
}

// server is one of those that know the volume.
type server struct {
	Type   string  `opt:"type" help:"Kind of address: inet or unix"`
	Host   *string `opt:"host" help:"Host name or address (type=inet)"`
	Port   *string `opt:"port" help:"TCP port (type=inet)"`
	Path   *string `opt:"path" help:"Unix socket (type=unix)"`
	Socket *string `opt:"socket" hidden:"on" help:"Older name of path"`
	To     string  `opt:"to" hidden:"on" help:"Not supported"`
	IPv4   string  `opt:"ipv4" hidden:"on" help:"Not supported"`
	IPv6   string  `opt:"ipv6" hidden:"on" help:"Not supported"`
}

// unix says whether the address is a socket.
func (s *server) unix() bool { return s.Type == "unix" }

var openSchema = opts.SchemaOf(openOptions{})

const (
	defaultPort = "24007"
	defaultLog  = "-" // standard error, as the library has it
	maxDebug    = 9
	usualDebug  = 4
	maxSeconds  = 100000
)

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// usageError is an error with the forms that names have.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Hint says what to write.
func (usageError) Hint() string {
	return "Usage: file=gluster[+transport]://[host[:port]]/volume/path[?socket=...][,file.debug=N][,file.logfile=/path/filename.log]"
}

// placedError is an error in one of several servers.
type placedError struct {
	error
	index int
}

func (e placedError) Unwrap() error { return e.error }

// Hint says which server it is about.
func (e placedError) Hint() string {
	return fmt.Sprintf("hint: check in 'server' array index '%d'", e.index)
}

// parseName reads a URL.
func (o *openOptions) parseName(name string) error {
	bad := usageError{invalid("invalid URI %s", name)}
	u, err := url.Parse(name)
	if err != nil {
		return bad
	}
	s := server{Type: "inet"}
	switch u.Scheme {
	case "gluster", "gluster+tcp":
	case "gluster+rdma":
		o.rdma = true
	case "gluster+unix":
		s.Type = "unix"
	default:
		return bad
	}
	volume, path, _ := strings.Cut(strings.TrimLeft(u.Path, "/"), "/")
	if path = strings.TrimLeft(path, "/"); volume == "" || path == "" {
		return bad
	}
	o.Volume, o.Path = &volume, &path
	query, err := url.ParseQuery(u.RawQuery)
	socket := query.Get("socket")
	host, port := u.Hostname(), u.Port()
	if host == "" {
		host = "localhost"
	}
	if port == "" {
		port = defaultPort
	}
	switch {
	case err != nil, u.Opaque != "", u.User != nil:
		return bad
	case s.Type == "inet":
		if len(query) > 0 {
			return bad
		}
		s.Host, s.Port = &host, &port
	case socket == "" || len(query) > 1 || u.Host != "":
		return bad
	default:
		s.Path = &socket
	}
	o.Server = []server{s}
	return nil
}

// decode reads and checks options.
func decode(given opts.Dict) (*openOptions, error) {
	o := &openOptions{}
	if err := openSchema.Decode(given, o); err != nil {
		var unknown *opts.UnknownError
		if errors.As(err, &unknown) {
			return nil, invalid("block protocol 'gluster' doesn't support the option '%s'", unknown.Name)
		}
		return nil, err
	}
	if o.Timeout < 0 || o.Timeout > maxSeconds {
		return nil, invalid("parameter '%s' expects a number of seconds", "timeout")
	}
	if o.Filename != "" {
		if o.Volume != nil || o.Path != nil || len(o.Server) > 0 {
			return nil, invalid("option '%s' cannot be used with a file name", "volume")
		}
		return o, o.parseName(o.Filename)
	}
	switch {
	case len(o.Server) == 0:
		return nil, usageError{invalid("parameter '%s' is missing", "server")}
	case o.Volume == nil:
		return nil, usageError{invalid("parameter '%s' is missing", "volume")}
	case o.Path == nil:
		return nil, usageError{invalid("parameter '%s' is missing", "path")}
	}
	for i := range o.Server {
		if err := o.Server[i].check(); err != nil {
			return nil, placedError{err, i}
		}
	}
	for _, s := range o.Server {
		switch {
		case !s.unix() && s.To != "":
			return nil, invalid("parameter '%s' not supported", "to")
		case !s.unix() && s.IPv4+s.IPv6 != "":
			return nil, invalid("parameters 'ipv4/ipv6' not supported")
		}
	}
	return o, nil
}

// check checks an address. "tcp" is an older name of "inet", and "socket" of "path".
func (s *server) check() error {
	missing := func(name string) error { return invalid("parameter '%s' is missing", name) }
	switch s.Type {
	case "":
		return missing("type")
	case "inet", "unix", "tcp":
	default:
		return invalid("parameter '%s' may be 'inet' or 'unix'", "type")
	}
	switch {
	case s.unix() && s.Path != nil && s.Socket != nil:
		return invalid("conflicting parameters 'path' and 'socket'")
	case s.unix() && s.Socket != nil:
		s.Path, s.Socket = s.Socket, nil
	case s.unix() && s.Path == nil:
		return missing("path")
	case s.unix():
	case s.Host == nil:
		return missing("host")
	case s.Port == nil:
		return missing("port")
	}
	return nil
}

// args are the options as cowl-native wants them.
func (o *openOptions) args() (*link.Gluster, error) {
	a := &link.Gluster{Volume: *o.Volume, Path: *o.Path, Debug: usualDebug, LogFile: defaultLog}
	if o.Debug != nil {
		a.Debug = int(max(0, min(maxDebug, *o.Debug)))
	}
	if o.LogFile != "" {
		a.LogFile = o.LogFile
	}
	for _, s := range o.Server {
		if s.unix() {
			a.Servers = append(a.Servers, link.GlusterServer{Transport: "unix", Host: *s.Path})
			continue
		}
		port, err := strconv.ParseUint(*s.Port, 10, 16)
		if err != nil {
			return nil, invalid("'%s' is not a valid port number", *s.Port)
		}
		a.Servers = append(a.Servers, link.GlusterServer{Transport: "tcp", Host: *s.Host, Port: int(port)})
	}
	return a, nil
}

func (o *openOptions) timeout() time.Duration { return time.Duration(o.Timeout) * time.Second }

// name is the file name under which the file can be opened again.
func (o *openOptions) name() string {
	if o.Filename != "" {
		return o.Filename
	}
	d := map[string]any{"driver": "gluster", "volume": *o.Volume, "path": *o.Path}
	for i, s := range o.Server {
		prefix := fmt.Sprintf("server.%d.", i)
		d[prefix+"type"] = s.Type
		for member, text := range map[string]*string{"host": s.Host, "port": s.Port, "path": s.Path} {
			if text != nil {
				d[prefix+member] = *text
			}
		}
	}
	b, err := json.Marshal(d)
	if err != nil {
		return ""
	}
	return "json:" + string(b)
}
