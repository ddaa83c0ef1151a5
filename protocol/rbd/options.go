package rbd

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/opts"
)

// openOptions are the options of the driver.
type openOptions struct {
	Pool      *string  `opt:"pool" help:"Name of the pool"`
	Namespace *string  `opt:"namespace" help:"Name of the namespace in the pool"`
	Image     *string  `opt:"image" help:"Name of the image"`
	Snapshot  *string  `opt:"snapshot" help:"Name of the snapshot to read"`
	Conf      *string  `opt:"conf" help:"Configuration file of Ceph (default: where the library looks)"`
	User      *string  `opt:"user" help:"User name without the type (default: admin)"`
	Server    []server `opt:"server"`
	KeySecret string   `opt:"key-secret" help:"ID of the secret with the key of the user"`
	OldSecret string   `opt:"password-secret" hidden:"on" help:"Older name of key-secret"`
	Timeout   int64    `opt:"timeout" runtime:"on" help:"Seconds without an answer after which a request fails (default 0: it waits for the cluster)"`

	// Settings of the library from a file name: a list of JSON with key, value, key, value.
	Pairs string `opt:"=keyvalue-pairs" hidden:"on"`

	// What a schema has no words for is read before: see decode.
	auth    []string
	encrypt []layer
	legacy  string // the file name of the older form
}

// server is the address of a monitor.
type server struct {
	Host string `opt:"host" help:"Host name or address of a monitor"`
	Port string `opt:"port" help:"Port of the monitor"`
}

// layer is a layer of encryption: that of the image, and those of its parents.
type layer struct {
	Format    string `opt:"format" help:"Format of the encryption: luks, luks2 or luks-any"`
	KeySecret string `opt:"key-secret" help:"ID of the secret with the passphrase"`
}

var (
	openSchema  = opts.SchemaOf(openOptions{})
	layerSchema = opts.SchemaOf(layer{})
)

const (
	maxSeconds = 100000
	maxLayers  = 16
)

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// cut cuts s at the first delimiter that no backslash escapes.
func cut(s string, delimiter byte) (before, after string, found bool) {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == delimiter:
			return s[:i], s[i+1:], true
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
	}
	return s, "", false
}

// plain takes the backslashes out that escape something.
func plain(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

// parseName reads a file name.
func parseName(name string) (opts.Dict, error) {
	rest, ok := strings.CutPrefix(name, "rbd:")
	if !ok {
		return nil, invalid("file name must start with 'rbd:'")
	}
	pool, rest, ok := cut(rest, '/')
	if !ok {
		return nil, invalid("pool name is required")
	}
	d := opts.Dict{"pool": plain(pool)}
	image, more := rest, ""
	if before, after, found := cut(rest, '@'); found {
		var snapshot string
		image = before
		snapshot, more, ok = cut(after, ':')
		d["snapshot"] = plain(snapshot)
	} else {
		image, more, ok = cut(rest, ':')
	}
	d["namespace"] = ""
	if namespace, after, found := cut(image, '/'); found {
		d["namespace"], image = plain(namespace), after
	}
	d["image"] = plain(image)
	var pairs []string
	for ok {
		var key, value string
		if key, more, ok = cut(more, '='); !ok {
			return nil, invalid("conf option %s has no value", key)
		}
		value, more, ok = cut(more, ':')
		switch key, value = plain(key), plain(value); key {
		case "conf":
			d["conf"] = value
		case "id":
			d["user"] = value
		default:
			pairs = append(pairs, key, value)
		}
	}
	if pairs != nil {
		b, err := json.Marshal(pairs)
		if err != nil {
			return nil, err
		}
		d["=keyvalue-pairs"] = string(b)
	}
	return d, nil
}

// decode reads and checks options.
func decode(given opts.Dict, env *driver.Env) (*openOptions, error) {
	o := &openOptions{}
	if name, ok := given["filename"].(string); ok && given["pool"] == nil && given["image"] == nil {
		// The older form of json: names.
		parsed, err := parseName(name)
		if err != nil {
			return nil, invalid("parameter '%s' is missing", "pool")
		}
		given = given.Clone()
		delete(given, "filename")
		for k, v := range parsed {
			given[k] = v
		}
		if env != nil && env.Warn != nil {
			env.Warn("RBD options encoded in the filename as keyvalue pairs is deprecated")
		}
		o.legacy = name
	} else {
		given = given.Clone()
	}
	for i := 0; ; i++ {
		mode, ok := given.TakeText(fmt.Sprintf("auth-client-required.%d", i))
		if !ok {
			break
		}
		if mode != "cephx" && mode != "none" {
			return nil, invalid("parameter '%s' does not accept value '%s'", fmt.Sprintf("auth-client-required[%d]", i), mode)
		}
		o.auth = append(o.auth, mode)
	}
	if err := o.takeLayers(given.Sub("encrypt")); err != nil {
		return nil, err
	}
	if err := openSchema.Decode(given, o); err != nil {
		var unknown *opts.UnknownError
		if errors.As(err, &unknown) {
			return nil, invalid("parameter '%s' is unexpected", unknown.Name)
		}
		return nil, err
	}
	switch {
	case o.Pool == nil:
		return nil, invalid("parameter '%s' is missing", "pool")
	case o.Image == nil:
		return nil, invalid("parameter '%s' is missing", "image")
	case o.OldSecret != "" && o.KeySecret != "":
		return nil, invalid("legacy 'password-secret' clashes with 'key-secret'")
	case o.Timeout < 0 || o.Timeout > maxSeconds:
		return nil, invalid("parameter '%s' expects a number of seconds", "timeout")
	}
	for i, s := range o.Server {
		for _, member := range [][2]string{{"host", s.Host}, {"port", s.Port}} {
			if member[1] == "" {
				return nil, invalid("parameter '%s' is missing", fmt.Sprintf("server.%d.%s", i, member[0]))
			}
		}
	}
	return o, nil
}

// takeLayers reads the options "encrypt": "format", "key-secret" and "parent", which is
// such a group again.
func (o *openOptions) takeLayers(d opts.Dict) error {
	for prefix := "encrypt"; len(d) > 0; prefix += ".parent" {
		parent := d.Sub("parent")
		var l layer
		if err := layerSchema.Decode(d, &l); err != nil {
			return err
		}
		switch {
		case l.Format == "":
			return invalid("parameter '%s' is missing", prefix+".format")
		case !slices.Contains([]string{"luks", "luks2", "luks-any"}, l.Format):
			return invalid("parameter '%s' does not accept value '%s'", "format", l.Format)
		case l.KeySecret == "":
			return invalid("parameter '%s' is missing", prefix+".key-secret")
		case len(o.encrypt) == maxLayers:
			return invalid("there are more than %d layers of encryption", maxLayers)
		}
		o.encrypt = append(o.encrypt, l)
		d = parent
	}
	return nil
}

// args are the options as cowl-native wants them.
func (o *openOptions) args(env *driver.Env) (*link.RBD, error) {
	if env == nil {
		env = &driver.Env{}
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	a := &link.RBD{Pool: *o.Pool, Namespace: text(o.Namespace), Image: *o.Image, Snapshot: text(o.Snapshot), Conf: text(o.Conf), User: text(o.User),
		Auth: strings.Join(o.auth, ";")}
	if o.Pairs != "" {
		var list []string
		if err := json.Unmarshal([]byte(o.Pairs), &list); err != nil || len(list)%2 != 0 {
			return nil, invalid("parameter '%s' is unexpected", "=keyvalue-pairs")
		}
		for pair := range slices.Chunk(list, 2) {
			a.Pairs = append(a.Pairs, [2]string{pair[0], pair[1]})
		}
	}
	var monitors []string
	for _, s := range o.Server {
		monitors = append(monitors, net.JoinHostPort(s.Host, s.Port))
	}
	a.Monitors = strings.Join(monitors, ";")
	if id := o.KeySecret + o.OldSecret; id != "" {
		key, err := env.Secret(id)
		if err != nil {
			return nil, err
		}
		a.Key = base64.StdEncoding.EncodeToString(key)
	}
	for _, l := range o.encrypt {
		passphrase, err := env.Secret(l.KeySecret)
		if err != nil {
			return nil, err
		}
		a.Encryption = append(a.Encryption, link.Encryption{Format: l.Format, Passphrase: passphrase})
	}
	return a, nil
}

func (o *openOptions) timeout() time.Duration { return time.Duration(o.Timeout) * time.Second }

// name is the file name for people. As with QEMU settings of the library are not in it, of
// which one may be the key.
func (o *openOptions) name() string {
	if o.legacy != "" {
		return hidden(o.legacy)
	}
	d := map[string]any{"driver": "rbd"}
	for key, s := range map[string]*string{"pool": o.Pool, "namespace": o.Namespace, "image": o.Image, "conf": o.Conf, "snapshot": o.Snapshot, "user": o.User} {
		if s != nil {
			d[key] = *s
		}
	}
	for i, s := range o.Server {
		d[fmt.Sprintf("server.%d.host", i)], d[fmt.Sprintf("server.%d.port", i)] = s.Host, s.Port
	}
	if o.OldSecret != "" {
		d["password-secret"] = o.OldSecret
	}
	b, err := json.Marshal(d)
	if err != nil {
		return ""
	}
	return "json:" + string(b)
}

// hidden is a file name of the older form for people: without the settings, of which one
// may be the key.
func hidden(name string) string {
	rest := strings.TrimPrefix(name, "rbd:")
	image, _, _ := cut(rest, ':')
	return "rbd:" + image
}
