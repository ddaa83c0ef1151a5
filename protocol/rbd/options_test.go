package rbd

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

func TestNames(t *testing.T) {
	for name, want := range map[string]opts.Dict{
		"rbd:p/i":                                {"pool": "p", "namespace": "", "image": "i"},
		"rbd:p/n/i@s":                            {"pool": "p", "namespace": "n", "image": "i", "snapshot": "s"},
		`rbd:p\/q/n\/m/i\@j@s\:t`:                {"pool": "p/q", "namespace": "n/m", "image": "i@j", "snapshot": "s:t"},
		`rbd:p/i\:j:conf=/a\:b:id=joe`:           {"pool": "p", "namespace": "", "image": "i:j", "conf": "/a:b", "user": "joe"},
		`rbd:p/i:mon_host=1.2.3.4\:6789:x=y=z\=`: {"pool": "p", "namespace": "", "image": "i", "=keyvalue-pairs": `["mon_host","1.2.3.4:6789","x","y=z="]`},
		`rbd:p/i@s:key=a\b\`:                     {"pool": "p", "namespace": "", "image": "i", "snapshot": "s", "=keyvalue-pairs": `["key","ab\\"]`},
		"rbd:p/a/b/c":                            {"pool": "p", "namespace": "a", "image": "b/c"},
		"rbd:/":                                  {"pool": "", "namespace": "", "image": ""},
	} {
		if got, err := parseName(name); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"rbd:":            "pool name is required",
		"rbd:x":           "pool name is required",
		`rbd:x\/y`:        "pool name is required",
		"rbd:p/i:conf":    "conf option conf has no value",
		"rbd:p/i:a=b:":    "conf option  has no value",
		"nbd:p/i":         "file name must start with 'rbd:'",
		`rbd:p/i:conf\=a`: "conf option conf\\=a has no value",
	} {
		if _, err := parseName(name); err == nil || err.Error() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOptions(t *testing.T) {
	env := &driver.Env{Objects: driver.Secrets{"s": "secret", "u": "other"}, Warn: func(string) {}}
	disk := func(more opts.Dict) opts.Dict {
		d := opts.Dict{"pool": "p", "image": "i"}
		for k, v := range more {
			d[k] = v
		}
		return d
	}
	for want, given := range map[string]opts.Dict{
		"parameter 'pool' is missing":                                   {"image": "i"},
		"parameter 'image' is missing":                                  {"pool": "p"},
		"parameter 'foo' is unexpected":                                 disk(opts.Dict{"foo": "1"}),
		"parameter 'server.0.port' is missing":                          disk(opts.Dict{"server.0.host": "h"}),
		"parameter 'server.1.host' is missing":                          disk(opts.Dict{"server.0.host": "h", "server.0.port": "1", "server.1.port": "1"}),
		"legacy 'password-secret' clashes with 'key-secret'":            disk(opts.Dict{"key-secret": "s", "password-secret": "u"}),
		"no secret with id 't'":                                         disk(opts.Dict{"key-secret": "t"}),
		"parameter 'format' does not accept value 'foo'":                disk(opts.Dict{"encrypt.format": "foo", "encrypt.key-secret": "s"}),
		"parameter 'encrypt.key-secret' is missing":                     disk(opts.Dict{"encrypt.format": "luks"}),
		"parameter 'encrypt.parent.format' is missing":                  disk(opts.Dict{"encrypt.format": "luks", "encrypt.key-secret": "s", "encrypt.parent.key-secret": "s"}),
		"parameter 'timeout' expects a number of seconds":               disk(opts.Dict{"timeout": "100001"}),
		"parameter 'auth-client-required[1]' does not accept value 'x'": disk(opts.Dict{"auth-client-required.0": "none", "auth-client-required.1": "x"}),
		"parameter '=keyvalue-pairs' is unexpected":                     disk(opts.Dict{"=keyvalue-pairs": `["a"]`}),
		"there are more than 16 layers of encryption":                   deep(disk(nil), 17),
	} {
		o, err := decode(given, env)
		if err == nil {
			_, err = o.args(env)
		}
		if err == nil || err.Error() != want {
			t.Errorf("%v: %v, not %s", given, err, want)
		}
	}
	o, err := decode(disk(opts.Dict{"server.0.host": "::1", "server.0.port": "1", "server.1.host": "h", "server.1.port": "2", "key-secret": "s",
		"auth-client-required.0": "cephx", "auth-client-required.1": "none", "encrypt.format": "luks2", "encrypt.key-secret": "u", "user": "joe", "conf": "/c", "snapshot": "x",
		"encrypt.parent.format": "luks-any", "encrypt.parent.key-secret": "s", "=keyvalue-pairs": `["key","hidden"]`}), env)
	if err != nil {
		t.Fatal(err)
	}
	a, err := o.args(env)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(a)
	const want = `{"pool":"p","image":"i","snapshot":"x","conf":"/c","user":"joe","pairs":[["key","hidden"]],"monitors":"[::1]:1;h:2","key":"c2VjcmV0","auth":"cephx;none",` +
		`"encryption":[{"format":"luks2","passphrase":"b3RoZXI="},{"format":"luks-any","passphrase":"c2VjcmV0"}]}`
	if err != nil || string(b) != want {
		t.Errorf("%s\nnot\n%s", b, want)
	}
	// What is shown has none of the secrets in it.
	const shown = `json:{"conf":"/c","driver":"rbd","image":"i","pool":"p","server.0.host":"::1","server.0.port":"1","server.1.host":"h","server.1.port":"2","snapshot":"x","user":"joe"}`
	if got := o.name(); got != shown {
		t.Errorf("%s", got)
	}
	warned := ""
	env.Warn = func(s string) { warned = s }
	o, err = decode(opts.Dict{"filename": "rbd:p/i@s:key=hidden"}, env)
	if err != nil || *o.Pool != "p" || *o.Snapshot != "s" || o.Pairs != `["key","hidden"]` || o.name() != "rbd:p/i@s" || !strings.HasPrefix(warned, "RBD options encoded in the filename") {
		t.Errorf("%+v, %v, %s, warned %s", o, err, o.name(), warned)
	}
}

// deep adds layers of encryption.
func deep(d opts.Dict, n int) opts.Dict {
	for prefix := "encrypt."; n > 0; n-- {
		d[prefix+"format"], d[prefix+"key-secret"] = "luks", "s"
		prefix += "parent."
	}
	return d
}
