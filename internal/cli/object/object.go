// Package object reads the --object options of the programs: secrets, TLS
// credentials and authorization, which other options refer to by id.
package object

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/tlscreds"
	"github.com/cowl-disk/cowl/opts"
)

// Set holds the objects that were defined. The zero value is empty. It implements
// driver.Objects.
type Set struct {
	// IOThreads says that the program takes objects of type iothread.
	IOThreads bool

	mu   sync.Mutex
	byID map[string]driver.Object
}

// Object implements driver.Objects.
func (s *Set) Object(id string) driver.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// ErrHelp is returned by Define after it printed help.
var ErrHelp = errors.New("help was printed")

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
		s.listTypes(out)
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
	typ, ok := d.TakeText("qom-type")
	if !ok {
		return errors.New("Parameter 'qom-type' is missing")
	}
	t := lookup(typ)
	if t == nil {
		return fmt.Errorf("Parameter 'qom-type' does not accept value '%s'", typ)
	}
	if _, help := d["help"]; help {
		if !t.usable(s) {
			s.listTypes(out)
			return ErrHelp
		}
		fmt.Fprintf(out, "%s options:\n", typ)
		for _, p := range t.params {
			fmt.Fprintf(out, "  %s=<%s>\n", p.name, cmp.Or(p.kind, "string"))
		}
		return ErrHelp
	}
	id, ok := d.TakeText("id")
	switch {
	case !ok:
		return errors.New("Parameter 'id' is missing")
	case !isIdentifier(id):
		return errors.New("Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', starting with a letter.")
	case s.Object(id) != nil:
		return fmt.Errorf("attempt to add duplicate property '%s' to object (type 'container')", id)
	}
	for _, k := range d.Keys() {
		if !t.takes(k) {
			return fmt.Errorf("Parameter '%s' is unexpected", k)
		}
	}
	if !t.usable(s) {
		return fmt.Errorf("invalid object type: %s", typ)
	}
	obj, err := t.build(s, definition{typ: typ, id: id, params: d, fromJSON: strings.HasPrefix(def, "{")})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[string]driver.Object{}
	}
	s.byID[id] = obj
	return nil
}

// tlsCreds reads the options of TLS credentials and looks at their files. Their users
// read the files again.
func (s *Set) tlsCreds(def definition) (driver.Object, error) {
	d := def.params
	c := &driver.TLSCreds{Type: strings.TrimPrefix(def.typ, "tls-creds-"), Dir: d.String("dir"), VerifyPeer: true, Username: d.String("username"),
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
