// Package object reads the --object options of the programs: secrets, TLS
// credentials and authorization, which other options refer to by id.
package object

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/tlscreds"
	"github.com/cowl-disk/cowl/opts"
)

// Set holds the objects that were defined. The zero value is empty. It implements
// driver.Objects.
type Set struct {
	mu   sync.Mutex
	byID map[string]any // []byte: a secret; *driver.TLSCreds; *Authz
}

// ErrHelp is returned by Define after it printed help.
var ErrHelp = errors.New("help was printed")

// params are the types of object and their parameters.
var params = map[string][]string{
	"authz-list":      {"policy", "rules"},
	"authz-list-file": {"filename", "refresh"},
	"authz-simple":    {"identity"},
	"secret":          {"data", "file", "format", "iv", "keyid"},
	"tls-creds-anon":  {"dir", "endpoint", "priority", "verify-peer"},
	"tls-creds-psk":   {"dir", "endpoint", "priority", "username", "verify-peer"},
	"tls-creds-x509":  {"dir", "endpoint", "passwordid", "priority", "sanity-check", "verify-peer"},
}

// kinds are the parameters that are no strings, as the original names their types.
var kinds = map[string]string{
	"endpoint":     "QCryptoTLSCredsEndpoint",
	"format":       "QCryptoSecretFormat",
	"policy":       "QAuthZListPolicy",
	"refresh":      "bool",
	"rules":        "QAuthZListRule",
	"sanity-check": "bool",
	"verify-peer":  "bool",
}

func isIdentifier(id string) bool {
	for i := range len(id) {
		c := id[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '-' && c != '.' && c != '_') {
			return false
		}
	}
	return id != ""
}

// Define defines the object that def describes: a list of key=value, the type
// first, or a JSON object. It prints the help that def asks for to out and returns
// ErrHelp then.
func (s *Set) Define(def string, out io.Writer) error {
	if def == "help" || def == "?" {
		fmt.Fprintln(out, "List of user creatable objects:")
		for _, name := range sortedKeys(params) {
			fmt.Fprintln(out, "  "+name)
		}
		return ErrHelp
	}
	d := opts.Dict{}
	var err error
	if strings.HasPrefix(def, "{") {
		d, err = opts.ParseJSON(def)
	} else {
		err = d.ParseList(def, "qom-type")
	}
	if err != nil {
		return err
	}
	typ, ok := d.Take("qom-type")
	if !ok {
		return errors.New("Parameter 'qom-type' is missing")
	}
	known, ok := params[typ]
	if !ok {
		return fmt.Errorf("Parameter 'qom-type' does not accept value '%s'", typ)
	}
	if _, help := d["help"]; help {
		fmt.Fprintf(out, "%s options:\n", typ)
		for _, p := range known {
			fmt.Fprintf(out, "  %s=<%s>\n", p, cmp.Or(kinds[p], "string"))
		}
		return ErrHelp
	}
	id, ok := d.Take("id")
	s.mu.Lock()
	_, taken := s.byID[id]
	s.mu.Unlock()
	switch {
	case !ok:
		return errors.New("Parameter 'id' is missing")
	case !isIdentifier(id):
		return errors.New("Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', starting with a letter.")
	case taken:
		return fmt.Errorf("attempt to add duplicate property '%s' to object (type 'container')", id)
	}
	for _, k := range d.Keys() {
		first := k
		if typ == "authz-list" {
			first, _, _ = strings.Cut(k, ".")
		}
		if !slices.Contains(known, first) {
			return fmt.Errorf("Parameter '%s' is unexpected", k)
		}
	}
	obj, err := s.build(typ, d, strings.HasPrefix(def, "{"))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[string]any{}
	}
	s.byID[id] = obj
	return nil
}

// build makes an object. fromJSON says how it was written.
func (s *Set) build(typ string, d opts.Dict, fromJSON bool) (any, error) {
	switch typ {
	case "secret":
		return s.secret(d)
	case "tls-creds-anon", "tls-creds-psk", "tls-creds-x509":
		return s.tlsCreds(strings.TrimPrefix(typ, "tls-creds-"), d)
	case "authz-simple", "authz-list", "authz-list-file":
		return authz(typ, d, fromJSON)
	}
	return nil, fmt.Errorf("Parameter 'qom-type' does not accept value '%s'", typ)
}

// tlsCreds reads the options of TLS credentials and looks at their files. Who uses
// them reads those again.
func (s *Set) tlsCreds(typ string, d opts.Dict) (*driver.TLSCreds, error) {
	c := &driver.TLSCreds{Type: typ, Dir: d.String("dir"), VerifyPeer: true, Username: d.String("username"),
		PasswordID: d.String("passwordid"), Priority: d.String("priority")}
	switch e := d.String("endpoint"); e {
	case "server":
		c.Server = true
	case "", "client":
	default:
		return nil, fmt.Errorf("Parameter 'endpoint' does not accept value '%s'", e)
	}
	sanity := true
	for _, p := range []struct {
		key string
		to  *bool
	}{{"sanity-check", &sanity}, {"verify-peer", &c.VerifyPeer}} {
		v, ok := d[p.key]
		if !ok {
			continue
		}
		b, err := opts.ParseBool(opts.Text(v))
		if err != nil {
			return nil, fmt.Errorf("Parameter '%s' expects 'on' or 'off'", p.key)
		}
		*p.to = b
	}
	if err := tlscreds.Define(c, s, sanity); err != nil {
		return nil, err
	}
	return c, nil
}

// get returns the object with an id.
func (s *Set) get(id string) (any, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.byID[id]
	return v, ok
}

// Secret implements driver.Objects.
func (s *Set) Secret(id string) ([]byte, error) {
	v, ok := s.get(id)
	if !ok {
		return nil, driver.Errorf(driver.ErrInvalid, "No secret with id '%s'", id)
	}
	b, ok := v.([]byte)
	if !ok {
		return nil, driver.Errorf(driver.ErrInvalid, "Object with id '%s' is not a secret", id)
	}
	return b, nil
}

// TLSCreds implements driver.Objects.
func (s *Set) TLSCreds(id string) (*driver.TLSCreds, error) {
	v, ok := s.get(id)
	if !ok {
		return nil, driver.Errorf(driver.ErrInvalid, "No TLS credentials with id '%s'", id)
	}
	c, ok := v.(*driver.TLSCreds)
	if !ok {
		return nil, driver.Errorf(driver.ErrInvalid, "Object with id '%s' is not TLS credentials", id)
	}
	return c, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
