package object

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// Authz decides which peers that TLS has identified may connect. Its methods may be
// called from several goroutines.
type Authz struct {
	check func(name string) (bool, error)
}

// Kind implements driver.Object.
func (*Authz) Kind() string { return "an authorization object" }

// Allow tells whether the peer with the distinguished name may connect. An error
// says why that cannot be told; the peer may not then.
func (a *Authz) Allow(name string) (bool, error) { return a.check(name) }

// maxRules bounds a list of rules.
const maxRules = 65536

// rule is what a list says of names that match.
type rule struct {
	match       string
	glob, allow bool
}

// ruleList is the first rule that matches, or a policy for all other names.
type ruleList struct {
	rules []rule
	allow bool
}

func (l *ruleList) allows(name string) bool {
	for _, r := range l.rules {
		if r.glob && matchGlob(r.match, name) || !r.glob && r.match == name {
			return r.allow
		}
	}
	return l.allow
}

// matchGlob matches a name with a pattern in which * matches any characters and ?
// for one. Nothing else is special.
func matchGlob(pattern, name string) bool {
	star, retry := -1, 0 // where to go on when what follows the last * does not match
	p, n := 0, 0
	for n < len(name) {
		_, width := utf8.DecodeRuneInString(name[n:])
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, n
			p++
		case p < len(pattern) && pattern[p] == '?':
			p, n = p+1, n+width
		case p < len(pattern) && pattern[p] == name[n]:
			p, n = p+1, n+1
		case star >= 0:
			_, width = utf8.DecodeRuneInString(name[retry:])
			retry += width
			p, n = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// authzSimple lets one name in.
func authzSimple(_ *Set, def definition) (driver.Object, error) {
	id, err := stringOf(def.params, "identity", "identity")
	if err != nil {
		return nil, err
	}
	return &Authz{func(name string) (bool, error) { return name == id, nil }}, nil
}

// authzList goes by a list of rules.
func authzList(_ *Set, def definition) (driver.Object, error) {
	l, err := parseRules(def.params, def.fromJSON)
	if err != nil {
		return nil, err
	}
	return &Authz{func(name string) (bool, error) { return l.allows(name), nil }}, nil
}

// authzListFile goes by a list of rules in a file.
func authzListFile(_ *Set, def definition) (driver.Object, error) {
	file, ok := def.params.TakeText("filename")
	if !ok {
		return nil, errors.New("Parameter 'filename' is missing")
	}
	refresh := true
	if v, ok := def.params["refresh"]; ok {
		var err error
		if refresh, err = opts.ParseBool(opts.Text(v)); err != nil {
			return nil, errors.New("Parameter 'refresh' expects 'on' or 'off'")
		}
	}
	f := &ruleFile{name: file, refresh: refresh}
	if err := f.load(); err != nil {
		return nil, err
	}
	return &Authz{f.allow}, nil
}

// parseRules reads the policy and the rules of a list.
func parseRules(d opts.Dict, fromJSON bool) (*ruleList, error) {
	l := &ruleList{}
	var err error
	if _, ok := d["policy"]; ok {
		if l.allow, err = policy(d, "policy", "policy"); err != nil {
			return nil, err
		}
	}
	if _, ok := d["rules"]; ok {
		return nil, errors.New("Invalid parameter type for 'rules', expected: array")
	}
	d = d.Sub("rules")
	high := -1
	for key := range d {
		index, _, _ := strings.Cut(key, ".")
		n, err := strconv.ParseUint(index, 10, 31)
		if err != nil {
			return nil, errors.New("Invalid parameter type for 'rules', expected: array")
		}
		if n >= maxRules {
			return nil, fmt.Errorf("There are more than %d rules", maxRules)
		}
		high = max(high, int(n))
	}
	// Each rule has keys of its own, so this is linear in the number of keys.
	for i := 0; i <= high; i++ {
		index := strconv.Itoa(i)
		at := "rules." + index
		missing := "Parameter '" + at + "' missing"
		if fromJSON {
			at = "rules[" + index + "]"
		}
		if _, ok := d[index]; ok {
			return nil, fmt.Errorf("Invalid parameter type for '%s', expected: object", at)
		}
		r := opts.Dict{}
		for _, key := range []string{"match", "policy", "format"} {
			if v, ok := d[index+"."+key]; ok {
				r[key] = v
				delete(d, index+"."+key)
			}
		}
		if len(r) == 0 {
			if !hasPrefix(d, index+".") {
				return nil, errors.New(missing)
			}
		}
		one, err := parseRule(r, at)
		if err != nil {
			return nil, err
		}
		l.rules = append(l.rules, one)
	}
	if len(d) > 0 {
		key := d.Keys()[0]
		at := "rules." + key
		if index, rest, ok := strings.Cut(key, "."); ok && fromJSON {
			at = "rules[" + index + "]." + rest
		}
		return nil, fmt.Errorf("Parameter '%s' is unexpected", at)
	}
	return l, nil
}

func hasPrefix(d opts.Dict, prefix string) bool {
	for key := range d {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// parseRule reads one rule, which at names in messages.
func parseRule(d opts.Dict, at string) (r rule, err error) {
	if r.match, err = stringOf(d, "match", at+".match"); err != nil {
		return r, err
	}
	if r.allow, err = policy(d, "policy", at+".policy"); err != nil {
		return r, err
	}
	if _, ok := d["format"]; !ok {
		return r, nil
	}
	format, err := stringOf(d, "format", at+".format")
	if err == nil && format != "exact" && format != "glob" {
		err = fmt.Errorf("Parameter 'format' does not accept value '%s'", format)
	}
	r.glob = format == "glob"
	return r, err
}

// stringOf returns a value that must be there and be a string.
func stringOf(d opts.Dict, key, shown string) (string, error) {
	v, ok := d[key]
	if !ok {
		return "", fmt.Errorf("Parameter '%s' is missing", shown)
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("Invalid parameter type for '%s', expected: string", shown)
	}
	return s, nil
}

func policy(d opts.Dict, key, shown string) (allow bool, err error) {
	s, err := stringOf(d, key, shown)
	if err == nil && s != "allow" && s != "deny" {
		err = fmt.Errorf("Parameter 'policy' does not accept value '%s'", s)
	}
	return s == "allow", err
}

// ruleFile is a list in a file, a JSON object with policy and rules. Where it may
// change (refresh), it is read again before a decision if the file is another one
// than before; while it cannot be read, no client may connect.
type ruleFile struct {
	name    string
	refresh bool

	mu   sync.Mutex
	list *ruleList
	from fs.FileInfo
}

func (f *ruleFile) allow(name string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refresh {
		st, err := os.Stat(f.name)
		if err != nil || f.list == nil || !os.SameFile(st, f.from) || st.Size() != f.from.Size() || !st.ModTime().Equal(f.from.ModTime()) ||
			time.Since(st.ModTime()) < clockGrain {
			f.list = nil
			if err := f.load(); err != nil {
				return false, err
			}
		}
	}
	return f.list.allows(name), nil
}

// clockGrain is how old a file must be for another change to show in its time.
const clockGrain = 2 * time.Second

// load reads the file.
func (f *ruleFile) load() error {
	st, err := os.Stat(f.name)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return fmt.Errorf("Unable to read %s: %w", f.name, err)
	}
	text, err := readSecret(f.name)
	if err != nil {
		return err
	}
	d, err := opts.ParseJSON(text)
	if err != nil {
		return fmt.Errorf("Unable to read %s: %w", f.name, err)
	}
	for _, key := range d.Keys() {
		if first, _, _ := strings.Cut(key, "."); first != "policy" && first != "rules" {
			return fmt.Errorf("Unable to read %s: Parameter '%s' is unexpected", f.name, key)
		}
	}
	list, err := parseRules(d, true)
	if err != nil {
		return fmt.Errorf("Unable to read %s: %w", f.name, err)
	}
	f.list, f.from = list, st
	return nil
}
