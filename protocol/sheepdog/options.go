package sheepdog

import (
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/sockaddr"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/sheepdog"
)

// openOptions are the options of the driver.
type openOptions struct {
	VDI            string           `opt:"vdi" help:"Name of the VDI"`
	Server         sockaddr.Address `opt:"server"`
	SnapID         *int64           `opt:"snap-id" help:"Number of a snapshot"`
	Tag            *string          `opt:"tag" help:"Tag of a snapshot"`
	Timeout        int64            `opt:"timeout" default:"60" help:"Seconds for which a server that does not answer is waited for (0: for ever)"`
	ReconnectDelay int64            `opt:"reconnect-delay" default:"60" help:"Seconds for which requests wait for a new connection after a loss (0: they fail)"`
}

var openSchema = opts.SchemaOf(openOptions{})

const (
	defaultHost = "localhost"
	defaultPort = "7000"
	maxSeconds  = 100000
	maxSnapID   = 1<<32 - 1
)

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// parseName reads a file name of either spelling.
func parseName(name string) (opts.Dict, error) {
	if strings.Contains(name, "://") {
		return parseURL(name)
	}
	// [host:port:]vdi[:snapshot]
	rest, ok := strings.CutPrefix(name, "sheepdog:")
	if !ok {
		return nil, invalid("can't parse filename")
	}
	server := ""
	if words := strings.SplitN(rest, ":", 3); len(words) == 3 {
		server, rest = words[0]+":"+words[1], words[2]
	}
	vdi, snapshot, given := strings.Cut(rest, ":")
	if given {
		vdi += "#" + snapshot
	}
	return parseURL("sheepdog://" + server + "/" + vdi)
}

func parseURL(name string) (opts.Dict, error) {
	u, err := url.Parse(name)
	if err != nil {
		return nil, invalid("invalid URI '%s'", name)
	}
	d := opts.Dict{}
	unix := u.Scheme == "sheepdog+unix"
	switch {
	case u.Scheme != "sheepdog" && u.Scheme != "sheepdog+tcp" && !unix:
		return nil, invalid("URI scheme must be 'sheepdog', 'sheepdog+tcp', or 'sheepdog+unix'")
	case u.Path == "" || u.Path == "/":
		return nil, invalid("missing file path in URI")
	}
	d["vdi"] = u.Path[1:]
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, invalid("invalid URI '%s'", name)
	}
	switch {
	case !unix && len(query) > 0:
		return nil, invalid("unexpected query parameters")
	case unix && u.Host != "":
		return nil, invalid("URI scheme sheepdog+unix doesn't accept a server address")
	case unix && (len(query) != 1 || len(query["socket"]) != 1):
		return nil, invalid("URI scheme sheepdog+unix requires query parameter 'socket'")
	case unix:
		d["server.type"], d["server.path"] = "unix", query.Get("socket")
	default:
		host, port := u.Hostname(), u.Port()
		if host == "" {
			host = defaultHost
		}
		if port == "" {
			port = defaultPort
		}
		d["server.type"], d["server.host"], d["server.port"] = "inet", host, port
	}
	if strings.Contains(name, "#") {
		if err := snapshotOption(d, u.Fragment); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// snapshotOption sets the option that a number or a tag means.
func snapshotOption(d opts.Dict, text string) error {
	n, err := strconv.ParseUint(text, 10, 32)
	switch {
	case err == nil && n == 0, errors.Is(err, strconv.ErrRange):
		return invalid("'%s' is not a valid snapshot ID", text)
	case err == nil:
		d["snap-id"] = strconv.FormatUint(n, 10)
	case text == "" || len(text) >= sheepdog.MaxName:
		return invalid("'%s' is not a valid snapshot tag", text)
	default:
		d["tag"] = text
	}
	return nil
}

// decode reads and checks options.
func decode(d opts.Dict) (*openOptions, error) {
	o := &openOptions{}
	if err := openSchema.Decode(d, o); err != nil {
		var unknown *opts.UnknownError
		if errors.As(err, &unknown) {
			return nil, invalid("parameter '%s' is unexpected", unknown.Name)
		}
		return nil, err
	}
	switch o.Server.Type {
	case "":
		o.Server.Type = "inet"
		fallthrough
	case "inet":
		if o.Server.Host == "" {
			o.Server.Host = defaultHost
		}
		if o.Server.Port == "" {
			o.Server.Port = defaultPort
		}
	case "unix":
	default:
		return nil, invalid("parameter '%s' does not accept value '%s'", "server.type", o.Server.Type)
	}
	switch {
	case o.VDI == "":
		return nil, invalid("parameter '%s' is missing", "vdi")
	case len(o.VDI) >= sheepdog.MaxName || strings.ContainsRune(o.VDI, 0):
		return nil, invalid("the name of a VDI has at most %d bytes, none of them zero", sheepdog.MaxName-1)
	case o.SnapID != nil && (*o.SnapID < 1 || *o.SnapID > maxSnapID):
		return nil, invalid("'%s' is not a valid snapshot ID", strconv.FormatInt(*o.SnapID, 10))
	case o.Tag != nil && (len(*o.Tag) >= sheepdog.MaxName || strings.ContainsRune(*o.Tag, 0)):
		return nil, invalid("'%s' is not a valid snapshot tag", *o.Tag)
	case o.Timeout < 0 || o.Timeout > maxSeconds:
		return nil, invalid("parameter '%s' expects a number of seconds", "timeout")
	case o.ReconnectDelay < 0 || o.ReconnectDelay > maxSeconds:
		return nil, invalid("parameter '%s' expects a number of seconds", "reconnect-delay")
	}
	if o.Tag != nil && *o.Tag == "" {
		o.Tag = nil
	}
	return o, nil
}

// open is what the options say to the client.
func (o *openOptions) open() sheepdog.Open {
	to := sheepdog.Open{Name: o.VDI}
	if o.SnapID != nil {
		to.Snapshot = uint32(*o.SnapID)
	}
	if o.Tag != nil {
		to.Tag = *o.Tag
	}
	return to
}

// name is the file name under which the VDI can be opened again: a URL, or all options
// where there is none that says as much.
func (o *openOptions) name() string {
	fragment := ""
	if o.SnapID != nil {
		fragment = strconv.FormatInt(*o.SnapID, 10)
	} else if o.Tag != nil {
		fragment = *o.Tag
	}
	_, number := strconv.ParseUint(fragment, 10, 64)
	a := &o.Server
	if a.IPv4 != nil || a.IPv6 != nil || a.Abstract != nil || o.SnapID != nil && o.Tag != nil || o.SnapID == nil && o.Tag != nil && number == nil {
		d := a.Options("server")
		d["driver"], d["vdi"] = "sheepdog", o.VDI
		if o.SnapID != nil {
			d["snap-id"] = *o.SnapID
		}
		if o.Tag != nil {
			d["tag"] = *o.Tag
		}
		b, err := json.Marshal(d)
		if err != nil {
			return ""
		}
		return "json:" + string(b)
	}
	u := url.URL{Scheme: "sheepdog", Path: "/" + o.VDI, Fragment: fragment}
	switch {
	case a.Type == "unix":
		u.Scheme, u.RawQuery = "sheepdog+unix", "socket="+strings.ReplaceAll(url.QueryEscape(a.Path), "%2F", "/")
	case a.Port != defaultPort:
		u.Host = net.JoinHostPort(a.Host, a.Port)
	case a.Host != defaultHost && strings.Contains(a.Host, ":"):
		u.Host = "[" + a.Host + "]"
	case a.Host != defaultHost:
		u.Host = a.Host
	}
	s := u.String()
	if u.Host == "" { // url leaves the slashes out
		if rest, ok := strings.CutPrefix(s, u.Scheme+":/"); ok && !strings.HasPrefix(rest, "/") {
			s = u.Scheme + ":///" + rest
		}
	}
	return s
}
