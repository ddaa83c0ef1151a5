package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
)

// buckets is the size of the hash table that holds the members of an object in
// QEMU. Members are printed in table order, so that is their order here.
const buckets = 512

// bucket is the place of a key in that table: the hash of tdb, the trivial
// database, from the length and the shifted bytes of the key.
func bucket(key string) uint32 {
	v := uint32(0x238F13AF) * uint32(len(key))
	for i := range len(key) {
		v += uint32(key[i]) << (uint(i) * 5 % 24)
	}
	return (v*1103515243 + 12345) % buckets
}

// member is a member of an object.
type member struct {
	key string
	val any
}

// object keeps members in the order of QEMU.
type object []member

// tree is the generic form of a value: object, []any, string, json.Number,
// bool or nil.
func tree(v any) (any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return decode(dec)
}

func decode(dec *json.Decoder) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	d, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	if d == '[' {
		list := []any{}
		for dec.More() {
			v, err := decode(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	}
	obj := object{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		v, err := decode(dec)
		if err != nil {
			return nil, err
		}
		obj = append(obj, member{key.(string), v})
	}
	sort.SliceStable(obj, func(i, j int) bool { return bucket(obj[i].key) < bucket(obj[j].key) })
	_, err = dec.Token()
	return obj, err
}

// JSON prints v with indentation, in the layout and order of members of the
// original.
func JSON(w io.Writer, v any) error {
	t, err := tree(v)
	if err != nil {
		return err
	}
	var b strings.Builder
	writeJSON(&b, t, "\n")
	b.WriteByte('\n')
	_, err = io.WriteString(w, b.String())
	return err
}

// compactJSON writes v on one line, as in json: file names.
func compactJSON(v any) string {
	var b strings.Builder
	writeJSON(&b, v, "")
	return b.String()
}

// writeJSON writes a tree; nl is a line break with the indentation so far, or
// empty for all on one line.
func writeJSON(b *strings.Builder, v any, nl string) {
	inner, sep := "", ", "
	if nl != "" {
		inner, sep = nl+"    ", ","
	}
	switch v := v.(type) {
	case object:
		b.WriteByte('{')
		for i, m := range v {
			if i > 0 {
				b.WriteString(sep)
			}
			b.WriteString(inner)
			b.WriteString(quote(m.key))
			b.WriteString(": ")
			writeJSON(b, m.val, inner)
		}
		b.WriteString(nl)
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteString(sep)
			}
			b.WriteString(inner)
			writeJSON(b, e, inner)
		}
		b.WriteString(nl)
		b.WriteByte(']')
	case string:
		b.WriteString(quote(v))
	case nil:
		b.WriteString("null")
	default:
		fmt.Fprint(b, v)
	}
}

// quote writes a JSON string in ASCII.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r >= 0x10000:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04X\u%04X`, 0xD800+(r>>10), 0xDC00+(r&0x3ff))
		case r < 0x20 || r >= 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

// Filename writes the name of an image: json: names get the layout of the
// original, and names of files lose the prefix of their protocol.
func Filename(name string) string {
	rest, ok := strings.CutPrefix(name, "json:")
	if !ok {
		return strings.TrimPrefix(name, "file:")
	}
	dec := json.NewDecoder(strings.NewReader(rest))
	dec.UseNumber()
	t, err := decode(dec)
	if err != nil {
		return name
	}
	return "json:" + compactJSON(t)
}

func number(n int64) string { return strconv.FormatInt(n, 10) }
