package nfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nfs"
	"github.com/cowl-disk/cowl/opts"
)

type server struct {
	Type string `opt:"type" help:"Kind of address: inet"`
	Host string `opt:"host" help:"Host name or address"`
}

// openOptions are the options of the driver.
type openOptions struct {
	Server      server `opt:"server"`
	Path        string `opt:"path" help:"Path of the file on the server"`
	User        *int64 `opt:"user" help:"Number of the user that the server is to take us for (default: that of this process)"`
	Group       *int64 `opt:"group" help:"Number of the group (default: that of this process)"`
	SynCount    int64  `opt:"tcp-syn-count" help:"How often the first packet of a connection is sent again (Linux)"`
	Readahead   *int64 `opt:"readahead-size" help:"Bytes that reading in order fetches ahead (at most 1 MiB)"`
	PageCache   *int64 `opt:"page-cache-size" help:"Pages of 4 KiB of what was read that are kept (at most 2048)"`
	Debug       int64  `opt:"debug" help:"How much is told of what happens on the connections: 0 (default), 1 or 2"`
	Version     string `opt:"version" help:"Version of NFS: 3, 4, 4.1 or 4.2 (default: 3, or the newest 4 where the server has no 3)"`
	Port        int64  `opt:"nfsport" help:"TCP port of NFS (default: the port mapper tells it, 2049 in version 4)"`
	MountPort   int64  `opt:"mountport" help:"TCP port of the mount service of version 3 (default: the port mapper tells it)"`
	Timeout     int64  `opt:"timeout" default:"60" help:"Seconds for which a server that does not answer is waited for"`
	Connections int64  `opt:"connections" help:"Connections to use at most (default: 4)"`
}

var openSchema = opts.SchemaOf(openOptions{})

// Bounds of options; those of QEMU have its names there.
const (
	maxReadahead   = 1 << 20            // bytes
	pageSize       = 4096               // bytes
	maxPageCache   = 8 << 20 / pageSize // pages
	maxDebug       = 2
	maxTimeout     = 10000 // seconds
	maxConnections = 16
)

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// numbers are the parameters of URLs that QEMU has, own those that it has not.
var (
	numbers = map[string]string{"uid": "user", "gid": "group", "tcp-syncnt": "tcp-syn-count", "readahead": "readahead-size", "pagecache": "page-cache-size", "debug": "debug"}
	own     = map[string]bool{"version": true, "nfsport": true, "mountport": true, "timeout": true, "connections": true}
)

// parseName reads a URL.
func parseName(name string) (opts.Dict, error) {
	u, err := url.Parse(name)
	switch {
	case err != nil:
		return nil, invalid("invalid URI specified")
	case u.Scheme != "nfs":
		return nil, invalid("URI scheme must be 'nfs'")
	case u.Hostname() == "":
		return nil, invalid("missing hostname in URI")
	case u.Path == "":
		return nil, invalid("missing file path in URI")
	}
	d := opts.Dict{"server.type": "inet", "server.host": u.Hostname(), "path": u.Path}
	if port := u.Port(); port != "" {
		d["nfsport"] = port
	}
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		if pair == "" {
			continue
		}
		k, v, given := strings.Cut(pair, "=")
		k, kerr := url.QueryUnescape(k)
		v, verr := url.QueryUnescape(v)
		if kerr != nil || verr != nil || !given {
			return nil, invalid("failed to parse NFS parameter")
		}
		if own[k] {
			d[k] = v
			continue
		}
		if _, err := strconv.ParseUint(v, 0, 64); err != nil {
			return nil, invalid("invalid value for NFS parameter: %s", k)
		}
		option, known := numbers[k]
		if !known {
			return nil, invalid("unknown NFS parameter name: %s", k)
		}
		d[option] = v
	}
	return d, nil
}

// decode reads and checks options.
func decode(d opts.Dict, env *driver.Env, cache driver.Cache) (*openOptions, error) {
	o := &openOptions{}
	if err := openSchema.Decode(d, o); err != nil {
		var unknown *opts.UnknownError
		if errors.As(err, &unknown) {
			return nil, invalid("parameter '%s' is unexpected", unknown.Name)
		}
		return nil, err
	}
	switch {
	case o.Server == server{}:
		return nil, invalid("parameter '%s' is missing", "server")
	case o.Server.Type == "":
		return nil, invalid("parameter '%s' is missing", "server.type")
	case o.Server.Type != "inet":
		return nil, invalid("parameter '%s' does not accept value '%s'", "server.type", o.Server.Type)
	case o.Server.Host == "":
		return nil, invalid("parameter '%s' is missing", "server.host")
	case o.Path == "":
		return nil, invalid("parameter '%s' is missing", "path")
	case !strings.Contains(o.Path, "/"):
		return nil, invalid("invalid URL specified")
	case strings.ContainsRune(o.Path, 0):
		return nil, invalid("a path has no zero bytes")
	case o.Readahead != nil && cache.Direct:
		return nil, invalid("cannot enable NFS readahead if cache.direct = on")
	case o.PageCache != nil && cache.Direct:
		return nil, invalid("cannot enable NFS pagecache if cache.direct = on")
	case o.Timeout < 1 || o.Timeout > maxTimeout:
		return nil, invalid("parameter 'timeout' expects a number of seconds up to %d", maxTimeout)
	case o.Connections < 0 || o.Connections > maxConnections:
		return nil, invalid("parameter 'connections' expects a number from 1 to %d", maxConnections)
	}
	for _, n := range []struct {
		name string
		v    int64
		most int64
	}{
		{"user", number(o.User), math.MaxUint32}, {"group", number(o.Group), math.MaxUint32}, {"tcp-syn-count", o.SynCount, math.MaxUint8},
		{"readahead-size", number(o.Readahead), math.MaxInt64}, {"page-cache-size", number(o.PageCache), math.MaxInt64},
		{"debug", o.Debug, math.MaxInt64}, {"nfsport", o.Port, math.MaxUint16}, {"mountport", o.MountPort, math.MaxUint16},
	} {
		if n.v < 0 || n.v > n.most {
			return nil, invalid("parameter '%s' expects a number from 0 to %d", n.name, n.most)
		}
	}
	o.limit(env)
	return o, nil
}

func number(v *int64) int64 {
	if v == nil {
		return 0
	}
	return *v
}

// limit cuts values that QEMU cuts, with its warnings.
func (o *openOptions) limit(env *driver.Env) {
	warn := func(format string, args ...any) {
		if env != nil && env.Warn != nil {
			env.Warn(fmt.Sprintf(format, args...))
		}
	}
	if number(o.Readahead) > maxReadahead {
		warn("Truncating NFS readahead size to %d", maxReadahead)
		*o.Readahead = maxReadahead
	}
	if number(o.PageCache) > maxPageCache {
		warn("Truncating NFS pagecache size to %d pages", maxPageCache)
		*o.PageCache = maxPageCache
	}
	if o.Debug > maxDebug {
		warn("Limiting NFS debug level to %d", maxDebug)
		o.Debug = maxDebug
	}
}

// split parts the path into the directory to mount and the name of the file.
func (o *openOptions) split() (directory, file string) {
	i := strings.LastIndexByte(o.Path, '/')
	directory, file = o.Path[:i], o.Path[i+1:]
	if directory == "" {
		directory = "/"
	}
	return directory, file
}

// nobody is the number that systems without numbers of users send.
const nobody = 65534

// config is what the client is made with.
func (o *openOptions) config(env *driver.Env) nfs.Config {
	id := func(given *int64, own int) uint32 {
		switch {
		case given != nil:
			return uint32(*given)
		case own < 0:
			return nobody
		}
		return uint32(own)
	}
	cfg := nfs.Config{Host: o.Server.Host, NFSPort: int(o.Port), MountPort: int(o.MountPort), Version: o.Version,
		UID: id(o.User, os.Getuid()), GID: id(o.Group, os.Getgid()), Connections: int(o.Connections),
		Timeout: time.Duration(o.Timeout) * time.Second, SynCount: int(o.SynCount)}
	if o.User == nil && o.Group == nil {
		groups, _ := os.Getgroups() // without them there are fewer rights, and that will be told
		for _, g := range groups {
			cfg.Groups = append(cfg.Groups, uint32(g))
		}
	}
	if o.Debug > 0 && env != nil && env.Warn != nil {
		var mu sync.Mutex
		cfg.Log = func(level int, text string) {
			mu.Lock()
			defer mu.Unlock()
			if int64(level) <= o.Debug {
				env.Warn("NFS: " + text)
			}
		}
	}
	return cfg
}

// name is the file name under which the file can be opened again: as QEMU has it, a URL,
// or all options where there is none that says as much.
func (o *openOptions) name() string {
	d := opts.Dict{}
	for k, v := range map[string]string{"version": o.Version} {
		if v != "" {
			d[k] = v
		}
	}
	for k, v := range map[string]int64{"nfsport": o.Port, "mountport": o.MountPort} {
		if v != 0 {
			d[k] = v
		}
	}
	if len(d) == 0 {
		host := o.Server.Host
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		var query []string
		if v := number(o.User); v != 0 {
			query = append(query, fmt.Sprintf("uid=%d", v))
		}
		if v := number(o.Group); v != 0 {
			query = append(query, fmt.Sprintf("gid=%d", v))
		}
		name := "nfs://" + host + o.Path
		if len(query) > 0 {
			name += "?" + strings.Join(query, "&")
		}
		return name
	}
	d["driver"], d["path"], d["server.type"], d["server.host"] = "nfs", o.Path, o.Server.Type, o.Server.Host
	for k, v := range map[string]*int64{"user": o.User, "group": o.Group} {
		if v != nil {
			d[k] = *v
		}
	}
	b, err := json.Marshal(d)
	if err != nil {
		return ""
	}
	return "json:" + string(b)
}

// address is the server for messages.
func (o *openOptions) address() string {
	if o.Port == 0 {
		return o.Server.Host
	}
	return net.JoinHostPort(o.Server.Host, strconv.FormatInt(o.Port, 10))
}
