package object

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// iscsiKeys are what settings of iSCSI sessions may have, beside id.
var iscsiKeys = []string{"user", "password", "password-secret", "header-digest", "initiator-name", "timeout"}

// DefineISCSI defines the settings of sessions with an iSCSI target, from a list of
// key=value, as the emulator's -iscsi has it. id is the name of the target; the first
// settings are those of all targets that have no other ones.
func (s *Set) DefineISCSI(def string) error {
	d := opts.Dict{}
	if err := d.ParseList(def, ""); err != nil {
		return err
	}
	target, _ := d.TakeText("id")
	return s.iscsi(target, d)
}

func (s *Set) iscsi(target string, d opts.Dict) error {
	for _, key := range d.Keys() {
		if !slices.Contains(iscsiKeys, key) {
			return fmt.Errorf("Invalid parameter '%s'", key)
		}
	}
	if v, ok := d["header-digest"]; ok {
		d["header-digest"] = strings.ToLower(opts.Text(v))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[string]driver.Object{}
	}
	const all = "iscsi/"
	if _, ok := s.byID[all+target]; ok && target != "" {
		return fmt.Errorf("Duplicate ID '%s' for iscsi", target)
	}
	if target != "" {
		s.byID[all+target] = driver.Defaults(d)
	}
	if _, ok := s.byID[all]; !ok {
		s.byID[all] = driver.Defaults(d)
	}
	return nil
}

// maxConfig bounds configuration files, in bytes.
const maxConfig = 1 << 20

// ReadConfig reads a configuration file of the emulator: its sections [iscsi],
// [iscsi "TARGET"] and [object "ID"]. The others describe a virtual machine.
func (s *Set) ReadConfig(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("Cannot read config file %s: %w", name, unwrapPath(err))
	}
	defer f.Close()
	var group, id string
	var d opts.Dict
	end := func() error {
		switch group {
		case "iscsi":
			return s.iscsi(id, d)
		case "object":
			return s.defineSection(id, d)
		}
		return nil
	}
	in := bufio.NewScanner(&limited{f, maxConfig})
	in.Buffer(nil, maxConfig)
	for line := 1; in.Scan(); line++ {
		text := strings.TrimSpace(in.Text())
		switch {
		case text == "" || text[0] == '#':
		case text[0] == '[':
			if err := end(); err != nil {
				return fmt.Errorf("%s:%d: %w", name, line, err)
			}
			inner, ok := strings.CutSuffix(text[1:], "]")
			group, id, _ = strings.Cut(strings.TrimSpace(inner), " ")
			if id = strings.TrimSpace(id); id != "" {
				var quoted bool
				id, quoted = unquote(id)
				ok = ok && quoted
			}
			if !ok || group == "" {
				return fmt.Errorf("%s:%d: parse error", name, line)
			}
			d = opts.Dict{}
		default:
			key, value, ok := strings.Cut(text, "=")
			value, quoted := unquote(strings.TrimSpace(value))
			if !ok || !quoted {
				return fmt.Errorf("%s:%d: parse error", name, line)
			}
			if group == "" {
				return fmt.Errorf("%s:%d: no group defined", name, line)
			}
			d[strings.TrimSpace(key)] = value
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("Cannot read config file %s: %w", name, err)
	}
	if err := end(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// defineSection defines an object that a section describes.
func (s *Set) defineSection(id string, d opts.Dict) error {
	typ, _ := d.TakeText("qom-type")
	def := "qom-type=" + opts.EscapeComma(typ) + ",id=" + opts.EscapeComma(id)
	for _, key := range d.Keys() {
		def += "," + key + "=" + opts.EscapeComma(d.String(key))
	}
	var none strings.Builder
	return s.Define(def, &none)
}

// unquote removes the quotation marks of a value.
func unquote(s string) (string, bool) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' || strings.Contains(s[1:len(s)-1], `"`) {
		return "", false
	}
	return s[1 : len(s)-1], true
}

func unwrapPath(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

// limited fails after so many bytes.
type limited struct {
	f    *os.File
	left int
}

var errLarge = errors.New("the file is too large")

// Read implements io.Reader.
func (l *limited) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, errLarge
	}
	n, err := l.f.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}
