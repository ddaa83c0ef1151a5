package gluster

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/opts"
)

// TestOptions reads file names and options.
func TestOptions(t *testing.T) {
	for given, want := range map[string]string{
		"gluster://h/v/p":                                            `{"volume":"v","path":"p","servers":[{"transport":"tcp","host":"h","port":24007}],"debug":4,"log-file":"-"}`,
		"gluster+tcp://h:1/v/a/b.img":                                `{"volume":"v","path":"a/b.img","servers":[{"transport":"tcp","host":"h","port":1}],"debug":4,"log-file":"-"}`,
		"gluster+tcp://[::1]:1//v//p%20q":                            `{"volume":"v","path":"p q","servers":[{"transport":"tcp","host":"::1","port":1}],"debug":4,"log-file":"-"}`,
		"gluster:///v/p":                                             `{"volume":"v","path":"p","servers":[{"transport":"tcp","host":"localhost","port":24007}],"debug":4,"log-file":"-"}`,
		"gluster+unix:///v/p?socket=/s":                              `{"volume":"v","path":"p","servers":[{"transport":"unix","host":"/s"}],"debug":4,"log-file":"-"}`,
		"gluster+unix:/v/p?socket=/s":                                `{"volume":"v","path":"p","servers":[{"transport":"unix","host":"/s"}],"debug":4,"log-file":"-"}`,
		"gluster+rdma://h/v/p":                                       `{"volume":"v","path":"p","servers":[{"transport":"tcp","host":"h","port":24007}],"debug":4,"log-file":"-"}`,
		`{"filename":"gluster://h/v/p","debug":"10","logfile":"/l"}`: `{"volume":"v","path":"p","servers":[{"transport":"tcp","host":"h","port":24007}],"debug":9,"log-file":"/l"}`,
		`{"volume":"v","path":"/p","server":[{"type":"tcp","host":"h","port":"7"},{"type":"unix","path":"/s"},{"type":"unix","socket":"/t"}],"debug":"0"}`: `{"volume":"v","path":"/p","servers":[{"transport":"tcp","host":"h","port":7},{"transport":"unix","host":"/s"},{"transport":"unix","host":"/t"}],"debug":0,"log-file":"-"}`,
	} {
		o, err := decode(options(t, given))
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		a, err := o.args()
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		if b, _ := json.Marshal(a); string(b) != want {
			t.Errorf("%s:\n%s\nnot\n%s", given, b, want)
		}
		// The name of a node opens the same file again.
		again, err := decode(options(t, strings.TrimPrefix(strings.ReplaceAll(o.name(), `"driver":"gluster",`, ""), "json:")))
		if err != nil || *again.Volume != *o.Volume || *again.Path != *o.Path || len(again.Server) != len(o.Server) {
			t.Errorf("%s: %v", o.name(), err)
		}
	}
	for given, want := range map[string]string{
		"gluster://h/v":                     "invalid URI gluster://h/v",
		"gluster://h/v/":                    "invalid URI gluster://h/v/",
		"gluster://h/v/p?x=1":               "invalid URI gluster://h/v/p?x=1",
		"gluster+unix:///v/p":               "invalid URI gluster+unix:///v/p",
		"gluster+unix://h/v/p?socket=/s":    "invalid URI gluster+unix://h/v/p?socket=/s",
		"gluster+unix:///v/p?socket=/s&x=1": "invalid URI gluster+unix:///v/p?socket=/s&x=1",
		"gluster+foo://h/v/p":               "invalid URI gluster+foo://h/v/p",
		"gluster:h":                         "invalid URI gluster:h",
		"gluster://h:70000/v/p":             "'70000' is not a valid port number",
		`{"volume":"v","path":"p"}`:         "parameter 'server' is missing",
		`{"path":"p","server":[{"type":"unix","path":"/s"}]}`:                                    "parameter 'volume' is missing",
		`{"volume":"p","server":[{"type":"unix","path":"/s"}]}`:                                  "parameter 'path' is missing",
		`{"volume":"v","path":"p","server":[{"host":"h"}]}`:                                      "parameter 'type' is missing",
		`{"volume":"v","path":"p","server":[{"type":"inet","port":"1"}]}`:                        "parameter 'host' is missing",
		`{"volume":"v","path":"p","server":[{"type":"inet","host":"h"}]}`:                        "parameter 'port' is missing",
		`{"volume":"v","path":"p","server":[{"type":"unix"}]}`:                                   "parameter 'path' is missing",
		`{"volume":"v","path":"p","server":[{"type":"vsock"}]}`:                                  "parameter 'type' may be 'inet' or 'unix'",
		`{"volume":"v","path":"p","server":[{"type":"unix","path":"a","socket":"b"}]}`:           "conflicting parameters 'path' and 'socket'",
		`{"volume":"v","path":"p","server":[{"type":"inet","host":"h","port":"1","to":"2"}]}`:    "parameter 'to' not supported",
		`{"volume":"v","path":"p","server":[{"type":"inet","host":"h","port":"1","ipv4":"on"}]}`: "parameters 'ipv4/ipv6' not supported",
		`{"volume":"v","path":"p","server":[{"type":"inet","host":"h","port":"x"}]}`:             "'x' is not a valid port number",
		`{"volume":"v","path":"p","foo":"1","server":[{"type":"inet","host":"h","port":"1"}]}`:   "block protocol 'gluster' doesn't support the option 'foo'",
		`{"volume":"v","filename":"gluster://h/v/p"}`:                                            "option 'volume' cannot be used with a file name",
		`{"timeout":"100001","filename":"gluster://h/v/p"}`:                                      "parameter 'timeout' expects a number of seconds",
	} {
		o, err := decode(options(t, given))
		if err == nil {
			_, err = o.args()
		}
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, not %s", given, err, want)
		}
	}
	_, err := decode(options(t, `{"volume":"v","path":"p","server":[{"type":"unix","path":"a"},{"host":"h"}]}`))
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) || hint.Hint() != "hint: check in 'server' array index '1'" {
		t.Error(err)
	}
}

// options reads a file name or an object of JSON.
func options(t *testing.T, text string) opts.Dict {
	t.Helper()
	if !strings.HasPrefix(text, "{") {
		return opts.Dict{"filename": text}
	}
	d, err := opts.ParseJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
