package iscsi

import (
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/iscsi"
	"github.com/cowl-disk/cowl/opts"
)

// openOptions are the options of the driver.
type openOptions struct {
	Transport      string `opt:"transport" help:"How to reach the target: tcp"`
	Portal         string `opt:"portal" help:"Address of the target: HOST[:PORT]"`
	Target         string `opt:"target" help:"Name of the target"`
	LUN            int64  `opt:"lun" help:"Number of the logical unit (default: 0)"`
	User           string `opt:"user" help:"User name for CHAP"`
	Password       string `opt:"password" help:"Password for CHAP; use password-secret instead" hidden:"on"`
	PasswordSecret string `opt:"password-secret" help:"ID of the secret that holds the password for CHAP"`
	Initiator      string `opt:"initiator-name" help:"Name of the initiator (default: iqn.2008-11.org.linux-kvm)"`
	HeaderDigest   string `opt:"header-digest" help:"Checksums of headers: crc32c, none, crc32c-none or none-crc32c (default)"`
	Timeout        int64  `opt:"timeout" help:"Seconds without any progress after which a connection is given up (default 0: never, while the target answers pings)"`

	TargetUser     string `opt:"target-user" help:"User name that the target proves to have, by CHAP"`
	TargetSecret   string `opt:"target-password-secret" help:"ID of the secret that holds the password of the target"`
	TargetPassword string `opt:"target-password" hidden:"on" help:"Password of the target, from a URL"`
	ReconnectDelay int64  `opt:"reconnect-delay" default:"60" help:"Seconds for which requests wait for a new connection after a loss (0: they fail)"`
	FromURL        bool   `opt:"from-url" hidden:"on" help:"The options are those of a URL, for which the settings of --iscsi count"`
}

var openSchema = opts.SchemaOf(openOptions{})

const maxSeconds = 100000

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// parseName reads a URL, as libiscsi does.
func parseName(name string) (opts.Dict, error) {
	bad := invalid("failed to parse URL : %s", driver.HidePassword(name))
	scheme, rest, ok := strings.Cut(name, "://")
	if !ok || scheme != "iscsi" && scheme != "iser" {
		return nil, bad
	}
	d := opts.Dict{"transport": "tcp", "from-url": true}
	if scheme == "iser" {
		d["transport"] = "iser"
	}
	rest, query, _ := strings.Cut(rest, "?")
	host, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(host, '@'); at >= 0 {
		user, password, given := strings.Cut(host[:at], "%")
		host = host[at+1:]
		if user != "" {
			d["user"] = user
		}
		if given {
			d["password"] = password
		}
	}
	target, lun, _ := strings.Cut(path, "/")
	n, err := strconv.ParseUint(lun, 0, 32)
	if host == "" || target == "" || err != nil || n > iscsi.MaxLUN {
		return nil, bad
	}
	d["portal"], d["target"], d["lun"] = host, target, strconv.FormatUint(n, 10)
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, bad
	}
	for key, option := range map[string]string{"header_digest": "header-digest", "target_user": "target-user", "target_password": "target-password"} {
		if v := q.Get(key); v != "" {
			d[option] = v
		}
	}
	if q.Has("iser") {
		d["transport"] = "iser"
	}
	return d, nil
}

// settings are the Defaults for a target: those of its name, else the first ones.
func settings(env *driver.Env, target string) opts.Dict {
	if env == nil || env.Objects == nil {
		return nil
	}
	for _, id := range []string{"iscsi/" + target, "iscsi/"} {
		if d, ok := env.Objects.Object(id).(driver.Defaults); ok {
			return opts.Dict(d)
		}
	}
	return nil
}

// decode reads and checks options.
func decode(given opts.Dict, env *driver.Env) (*openOptions, error) {
	o := &openOptions{}
	if err := openSchema.Decode(given, o); err != nil {
		var unknown *opts.UnknownError
		if errors.As(err, &unknown) {
			return nil, invalid("block protocol 'iscsi' doesn't support the option '%s'", unknown.Name)
		}
		return nil, err
	}
	if o.FromURL {
		if d := settings(env, o.Target); d != nil {
			given = given.Clone()
			if _, ok := d["password-secret"]; ok {
				delete(given, "password") // that of the URL
			}
			for k, v := range d {
				given[k] = v
			}
			o = &openOptions{}
			if err := openSchema.Decode(given, o); err != nil {
				return nil, err
			}
		}
		o.environment()
	}
	switch {
	case o.Transport == "" || o.Portal == "" || o.Target == "":
		return nil, invalid("need all of transport, portal and target options")
	case o.Transport == "iser":
		return nil, driver.Errorf(driver.ErrUnsupported, "iSER needs RDMA hardware and its libraries, which cowl does not use: try iscsi:// (transport=tcp)")
	case o.Transport != "tcp":
		return nil, invalid("unknown transport: %s", o.Transport)
	case o.LUN < 0 || o.LUN > iscsi.MaxLUN:
		return nil, invalid("parameter 'lun' expects a number from 0 to %d", iscsi.MaxLUN)
	case o.Timeout < 0 || o.Timeout > maxSeconds:
		return nil, invalid("parameter '%s' expects a number of seconds", "timeout")
	case o.ReconnectDelay < 0 || o.ReconnectDelay > maxSeconds:
		return nil, invalid("parameter '%s' expects a number of seconds", "reconnect-delay")
	}
	return o, nil
}

// environment takes the user names and passwords that libiscsi takes from there.
func (o *openOptions) environment() {
	if user := os.Getenv("LIBISCSI_CHAP_USERNAME"); o.User == "" && user != "" {
		o.User, o.Password = user, os.Getenv("LIBISCSI_CHAP_PASSWORD")
	}
	if user := os.Getenv("LIBISCSI_CHAP_TARGET_USERNAME"); o.TargetUser == "" && user != "" {
		o.TargetUser, o.TargetPassword = user, os.Getenv("LIBISCSI_CHAP_TARGET_PASSWORD")
	}
}

// config makes the configuration of a session.
func (o *openOptions) config(env *driver.Env) (cfg iscsi.Config, err error) {
	cfg = iscsi.Config{Address: o.Portal, Target: o.Target, Initiator: o.Initiator,
		Timeout: time.Duration(o.Timeout) * time.Second, Reconnect: time.Duration(o.ReconnectDelay) * time.Second}
	if cfg.CHAP, err = credentials(env, o.User, o.Password, o.PasswordSecret, "password"); err != nil {
		return cfg, err
	}
	if o.Password != "" && o.User != "" && env != nil && env.Warn != nil {
		env.Warn("iSCSI block driver 'password' option is deprecated, use 'password-secret' instead")
	}
	if cfg.TargetCHAP, err = credentials(env, o.TargetUser, o.TargetPassword, o.TargetSecret, "target-password"); err != nil {
		return cfg, err
	}
	if cfg.TargetCHAP != nil && cfg.CHAP == nil {
		return cfg, invalid("a target proves itself only to an initiator with 'user' and a password")
	}
	digest, ok := map[string]iscsi.Digest{"": iscsi.DigestAllow, "none-crc32c": iscsi.DigestAllow, "crc32c-none": iscsi.DigestPrefer,
		"crc32c": iscsi.DigestRequire, "none": iscsi.DigestNone}[o.HeaderDigest]
	if !ok {
		return cfg, invalid("invalid header-digest setting : %s", o.HeaderDigest)
	}
	cfg.HeaderDigest = digest
	return cfg, nil
}

// credentials makes those of a user, nil if there is none.
func credentials(env *driver.Env, user, password, secret, option string) (*iscsi.Credentials, error) {
	switch {
	case user == "":
		return nil, nil
	case password != "" && secret != "":
		return nil, invalid("'%s' and '%s-secret' properties are mutually exclusive", option, option)
	case secret != "":
		if env == nil {
			env = &driver.Env{}
		}
		b, err := env.Secret(secret)
		if err != nil {
			return nil, err
		}
		password = string(b)
	case password == "":
		return nil, invalid("CHAP username specified but no password was given")
	}
	return &iscsi.Credentials{User: user, Secret: password}, nil
}

// name is the file name for people. A password is not in it.
func (o *openOptions) name() string {
	d := map[string]string{"driver": "iscsi", "transport": o.Transport, "portal": o.Portal, "target": o.Target, "lun": strconv.FormatInt(o.LUN, 10)}
	if o.User != "" {
		d["user"] = o.User
	}
	if o.PasswordSecret != "" {
		d["password-secret"] = o.PasswordSecret
	} else if o.Password != "" {
		d["password"] = "***"
	}
	for option, text := range map[string]string{"initiator-name": o.Initiator, "header-digest": o.HeaderDigest, "target-user": o.TargetUser, "target-password-secret": o.TargetSecret} {
		if text != "" {
			d[option] = text
		}
	}
	b, err := json.Marshal(d)
	if err != nil {
		return ""
	}
	return "json:" + string(b)
}
