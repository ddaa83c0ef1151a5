// Package keyfile reads and writes configuration files as GLib's GKeyFile does:
// groups in brackets, key=value lines, comments after "#".
package keyfile

import (
	"strings"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/internal/message"
)

// File is the content of a key file. Values are kept as they are written.
type File struct {
	groups map[string]map[string]string
}

// Parse reads a key file. Of a key that is there twice, the last value counts.
func Parse(data string) (*File, error) {
	f := &File{groups: map[string]map[string]string{}}
	group, begun := "", false
	for _, line := range strings.Split(data, "\n") {
		line = strings.TrimSuffix(line, "\r")
		text := strings.TrimLeft(line, " \t\v\f\r")
		switch {
		case text == "" || text[0] == '#':
		case isGroup(text):
			group = text[1:strings.IndexByte(text, ']')]
			if group == "" || strings.ContainsFunc(group, func(r rune) bool { return r == '[' || r < 0x20 || r == 0x7F }) {
				return nil, message.Errorf(nil, "invalid group name: %s", group)
			}
			begun = true
			if f.groups[group] == nil {
				f.groups[group] = map[string]string{}
			}
		case strings.IndexByte(text, '=') > 0:
			if !begun {
				return nil, message.Errorf(nil, "key file does not start with a group")
			}
			key, value, _ := strings.Cut(text, "=")
			key = strings.TrimRight(key, " \t\v\f\r")
			if !validKey(key) {
				return nil, message.Errorf(nil, "invalid key name: %s", key)
			}
			f.groups[group][key] = strings.TrimLeft(value, " \t\v\f\r")
		default:
			return nil, message.Errorf(nil, "key file contains line “%s” which is not a key-value pair, group, or comment", line)
		}
	}
	return f, nil
}

// isGroup reports whether a line is "[name]", with nothing but space after it.
func isGroup(s string) bool {
	if s[0] != '[' {
		return false
	}
	_, rest, ok := strings.Cut(s, "]")
	return ok && strings.Trim(rest, " \t") == ""
}

// validKey reports whether a name can be a key: a locale may follow in brackets.
func validKey(key string) bool {
	name, locale, ok := strings.Cut(key, "[")
	if name == "" || strings.ContainsAny(name, "=]") || name != strings.Trim(name, " ") {
		return false
	}
	return !ok || strings.HasSuffix(locale, "]")
}

// Value returns a value as it is written.
func (f *File) Value(group, key string) (string, bool) {
	v, ok := f.groups[group][key]
	return v, ok
}

func uninterpretable(key string) error {
	return message.Errorf(nil, "key file contains key “%s” which has a value that cannot be interpreted", key)
}

// String returns a value with its escape sequences resolved.
func (f *File) String(group, key string) (string, error) {
	v := f.groups[group][key]
	if !utf8.ValidString(v) {
		return "", message.Errorf(nil, "key file contains key “%s” with value “%s” which is not UTF-8", key, strings.ToValidUTF8(v, "\uFFFD"))
	}
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		if v[i] != '\\' {
			b.WriteByte(v[i])
			continue
		}
		i++
		if i == len(v) {
			return "", uninterpretable(key)
		}
		j := strings.IndexByte(`sntr\`, v[i])
		if j < 0 {
			return "", uninterpretable(key)
		}
		b.WriteByte(" \n\t\r\\"[j])
	}
	return b.String(), nil
}

// Bool returns a value that is true, false, 1 or 0.
func (f *File) Bool(group, key string) (bool, error) {
	switch strings.TrimRight(f.groups[group][key], " \t\v\f\r") {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, uninterpretable(key)
}

// Escape writes a string as a value.
func Escape(s string) string {
	var b strings.Builder
	leading := true
	for i := range len(s) {
		c := s[i]
		switch {
		case c == ' ' && leading:
			b.WriteString(`\s`)
		case c == '\t' && leading:
			b.WriteString(`\t`)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteByte(c)
		}
		leading = leading && (c == ' ' || c == '\t')
	}
	return b.String()
}
