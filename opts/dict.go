package opts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Dict is a set of options with nested structures flattened to dotted keys:
// {"file": {"driver": "nbd"}} is {"file.driver": "nbd"}; list elements have
// their index as key. Values are string, bool, json.Number or nil (JSON null).
// Options written as key=value text are strings.
type Dict map[string]any

// Clone returns a copy.
func (d Dict) Clone() Dict { return maps.Clone(d) }

// Keys returns the keys in order.
func (d Dict) Keys() []string { return slices.Sorted(maps.Keys(d)) }

// Sub removes the options below prefix ("file" for "file.driver") from d and
// returns them without it.
func (d Dict) Sub(prefix string) Dict {
	sub := Dict{}
	for k, v := range d {
		if rest, ok := strings.CutPrefix(k, prefix+"."); ok {
			sub[rest] = v
			delete(d, k)
		}
	}
	return sub
}

// TakeText removes key from d and returns its value as text. A null, which json: names can
// have, is no text: it is not removed, so that decoding the rest of d refuses it.
func (d Dict) TakeText(key string) (string, bool) {
	v, ok := d[key]
	if !ok || v == nil {
		return "", false
	}
	delete(d, key)
	return Text(v), true
}

// String returns the value of key as text, "" if there is none.
func (d Dict) String(key string) string {
	v, ok := d[key]
	if !ok || v == nil {
		return ""
	}
	return Text(v)
}

// Text writes an option value the way it is written in key=value lists.
func Text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		if v {
			return "on"
		}
		return "off"
	case nil:
		return ""
	default:
		return fmt.Sprint(v)
	}
}

// SplitComma splits a key=value list at its commas; ",," is a comma within a value.
func SplitComma(s string) []string {
	var out []string
	var cur strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != ',' {
			cur.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == ',' {
			cur.WriteByte(',')
			i++
			continue
		}
		out = append(out, cur.String())
		cur.Reset()
	}
	return append(out, cur.String())
}

// EscapeComma doubles commas, so that s can be a value in a key=value list.
func EscapeComma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// ParseList adds the options of a key=value list to d. A bare word is the value
// of the key implied if it is the first item and implied is not empty; elsewhere
// "word" means word=on and "noword" word=off, as with QEMU. The last
// of several values for a key wins.
func (d Dict) ParseList(s, implied string) error {
	return eachItem(s, implied, func(key, val string) { d[key] = val })
}

// ListKeys returns the keys of a key=value list in the order in which they are given.
func ListKeys(s string) []string {
	var keys []string
	// The items behind one without a name do not matter: ParseList refuses the list.
	_ = eachItem(s, "", func(key, _ string) { keys = append(keys, key) })
	return keys
}

func eachItem(s, implied string, fn func(key, val string)) error {
	if s == "" {
		return nil
	}
	for i, item := range SplitComma(s) {
		key, val, ok := strings.Cut(item, "=")
		switch {
		case ok:
		case i == 0 && implied != "":
			key, val = implied, item
		case item == "":
			continue
		case strings.HasPrefix(item, "no"):
			key, val = item[2:], "off"
		default:
			val = "on"
		}
		if key == "" {
			return fmt.Errorf("option %q has no name", item)
		}
		fn(key, val)
	}
	return nil
}
