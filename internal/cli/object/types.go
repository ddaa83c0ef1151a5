package object

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// definition is what the command line says of an object.
type definition struct {
	typ, id  string
	params   opts.Dict
	fromJSON bool // shows in messages
}

// param is a parameter of a type of object.
type param struct {
	name string
	kind string // as the help names it; "" means string
	// nested: the parameter is a structure or a list, and keys below it follow after
	// a dot.
	nested bool
}

// objectType is a type of object.
type objectType struct {
	name   string
	params []param
	build  func(*Set, definition) (driver.Object, error)
}

// usable tells whether the program of s has objects of this type.
func (t *objectType) usable(s *Set) bool { return t.name != ioThreadType || s.IOThreads }

func (t *objectType) takes(key string) bool {
	first, _, nested := strings.Cut(key, ".")
	return slices.ContainsFunc(t.params, func(p param) bool { return p.name == first && (p.nested || !nested) })
}

// types returns all types of object, by name. A new one is one more entry.
func types() []objectType {
	bools := func(name string) param { return param{name: name, kind: "bool"} }
	ints := func(name string) param { return param{name: name, kind: "int"} }
	text := func(name string) param { return param{name: name} }
	endpoint := param{name: "endpoint", kind: "QCryptoTLSCredsEndpoint"}
	format := param{name: "format", kind: "QCryptoSecretFormat"}
	return []objectType{
		{"authz-list", []param{{name: "policy", kind: "QAuthZListPolicy"}, {name: "rules", kind: "QAuthZListRule", nested: true}}, authzList},
		{"authz-list-file", []param{text("filename"), bools("refresh")}, authzListFile},
		{"authz-simple", []param{text("identity")}, authzSimple},
		{ioThreadType, []param{ints("aio-max-batch"), ints("poll-grow"), ints("poll-max-ns"), ints("poll-shrink"), ints("thread-pool-max"), ints("thread-pool-min")}, ioThread},
		{"secret", []param{text("data"), text("file"), format, text("iv"), text("keyid")}, (*Set).secret},
		{"secret_keyring", []param{format, text("iv"), text("keyid"), {name: "serial", kind: "int32_t"}}, (*Set).keyringSecret},
		{"throttle-group", throttleParams(), throttleGroup},
		{"tls-creds-anon", []param{text("dir"), endpoint, text("priority"), bools("verify-peer")}, (*Set).tlsCreds},
		{"tls-creds-psk", []param{text("dir"), endpoint, text("priority"), text("username"), bools("verify-peer")}, (*Set).tlsCreds},
		{"tls-creds-x509", []param{text("dir"), endpoint, text("passwordid"), text("priority"), bools("sanity-check"), bools("verify-peer")}, (*Set).tlsCreds},
	}
}

func lookup(name string) *objectType {
	list := types()
	if i := slices.IndexFunc(list, func(t objectType) bool { return t.name == name }); i >= 0 {
		return &list[i]
	}
	return nil
}

const ioThreadType = "iothread"

// IOThread is a thread of QEMU that serves the nodes which name it. On the
// command lines of these programs nothing names one.
type IOThread struct{}

// Kind implements driver.Object.
func (IOThread) Kind() string { return "an I/O thread" }

// ioThread checks the parameters of an I/O thread.
func ioThread(_ *Set, def definition) (driver.Object, error) {
	poolMin, poolMax := int64(0), int64(64)
	for _, key := range def.params.Keys() {
		n, err := integer(def.params, key, def.fromJSON)
		if err != nil {
			return nil, err
		}
		if n < 0 {
			return nil, fmt.Errorf("%s value must be in range [0, %d]", key, int64(math.MaxInt64))
		}
		switch key {
		case "thread-pool-min":
			poolMin = n
		case "thread-pool-max":
			poolMax = n
		}
	}
	if poolMin > poolMax {
		return nil, errors.New("bad thread-pool-min/thread-pool-max values")
	}
	return IOThread{}, nil
}

// listTypes prints the types of which objects can be defined.
func (s *Set) listTypes(out io.Writer) {
	fmt.Fprintln(out, "List of user creatable objects:")
	for _, t := range types() {
		if t.usable(s) {
			fmt.Fprintln(out, "  "+t.name)
		}
	}
}
