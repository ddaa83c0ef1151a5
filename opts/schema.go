package opts

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cowl-disk/cowl/internal/message"
)

// Type is the type of an option.
type Type string

// The types of options.
const (
	TypeString Type = "str"
	TypeBool   Type = "bool"   // on, off (yes, no, true, false)
	TypeNumber Type = "number" // unsigned
	TypeSize   Type = "size"   // bytes, with suffix
)

// Option is one declared option.
type Option struct {
	Name       string
	Type       Type
	Default    string // as text; "" if there is none
	Help       string
	Enum       []string // allowed values of a string; nil: any
	Deprecated string   // what to use in its place
	Hidden     bool     // not listed by itself; see Merge
	Runtime    bool     // changes how a node is used, not what its contents are
	index      []int    // of the field, from the outermost structure on
}

// Schema is what a driver accepts for one verb, in declaration order. Schemas are package variables of all
// drivers, of which a program uses few: so a declaration is read when the schema is used first.
type Schema struct {
	typ     reflect.Type
	options []Option
	lists   []list
	read    sync.Once // the declaration to options and lists
}

// SchemaOf returns the schema of a declaration: a struct (or pointer to one) whose fields have
// tags
//
//	opt:"name" type:"size" default:"65536" help:"…" enum:"a,b" deprecated:"use x" hidden:"on" runtime:"on"
//
// type may be left out where the field tells: string, bool, and pointers to
// them; integers are numbers unless the tag says size. A pointer field stays
// nil if the option was not given and has no default.
//
// A field that is a structure is a group of options: those of the structure, called
// "name.option". A slice of structures is a list of groups: "name.0.option",
// "name.1.option" and so on.
//
// A schema panics when it is used first if its declaration is wrong.
func SchemaOf(decl any) *Schema {
	t := reflect.TypeOf(decl)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return &Schema{typ: t}
}

// List returns the options in declaration order; lists of groups are not among them. The caller must not change them.
func (s *Schema) List() []Option {
	s.load()
	return s.options
}

// load reads the declaration, if that was not done before. A merged schema has none.
func (s *Schema) load() {
	if s.typ != nil {
		s.read.Do(func() { s.declare(s.typ, "", nil) })
	}
}

// declare adds the fields of a structure, whose options have names that begin with
// prefix and which is at index within the one that is decoded into.
func (s *Schema) declare(t reflect.Type, prefix string, index []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := readTag(f.Tag)
		name := tag.name
		if name == "" {
			continue
		}
		name = prefix + name
		at := append(slices.Clone(index), i)
		switch f.Type.Kind() {
		case reflect.Struct:
			s.declare(f.Type, name+".", at)
			continue
		case reflect.Slice:
			s.lists = append(s.lists, list{name: name, elem: SchemaOf(reflect.Zero(f.Type.Elem()).Interface()), index: at})
			continue
		}
		o := Option{Name: name, Type: Type(tag.typ), Default: tag.def, Help: tag.help, Deprecated: tag.deprecated,
			Hidden: tag.hidden == "on", Runtime: tag.runtime == "on", index: at}
		if tag.enum != "" {
			o.Enum = strings.Split(tag.enum, ",")
		}
		ft := f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if o.Type == "" {
			switch ft.Kind() {
			case reflect.String:
				o.Type = TypeString
			case reflect.Bool:
				o.Type = TypeBool
			case reflect.Int, reflect.Int64, reflect.Uint64:
				o.Type = TypeNumber
			default:
				panic(fmt.Sprintf("opts: field %s.%s has no option type", t, f.Name))
			}
		}
		s.options = append(s.options, o)
	}
}

// tag is what a field's tag says of its option.
type tag struct{ name, typ, def, help, enum, deprecated, hidden, runtime string }

// readTag reads a tag once, from its start to its end: a command reads some dozens of
// them, and reflect.StructTag.Get begins anew for each key.
func readTag(field reflect.StructTag) (t tag) {
	for text := string(field); ; {
		key, rest, found := strings.Cut(strings.TrimLeft(text, " "), ":")
		quoted, err := strconv.QuotedPrefix(rest)
		if !found || err != nil {
			return t
		}
		text = rest[len(quoted):]
		if part := t.part(key); part != nil {
			*part, _ = strconv.Unquote(quoted) // it is quoted: QuotedPrefix says so
		}
	}
}

func (t *tag) part(key string) *string {
	switch key {
	case "opt":
		return &t.name
	case "type":
		return &t.typ
	case "default":
		return &t.def
	case "help":
		return &t.help
	case "enum":
		return &t.enum
	case "deprecated":
		return &t.deprecated
	case "hidden":
		return &t.hidden
	case "runtime":
		return &t.runtime
	}
	return nil
}

// Lookup returns the option called name, nil if there is none.
func (s *Schema) Lookup(name string) *Option {
	if s == nil {
		return nil
	}
	s.load()
	for i := range s.options {
		if s.options[i].Name == name {
			return &s.options[i]
		}
	}
	for i := range s.lists {
		if _, rest, ok := s.lists[i].member(name); ok {
			return s.lists[i].elem.Lookup(rest)
		}
	}
	return nil
}

// UnknownError says that a schema does not have an option.
type UnknownError struct{ Name string }

func (e *UnknownError) Error() string { return message.Text(e) }

// Template implements message.Message, as that of the other errors does: the template
// and the arguments of the text.
func (e *UnknownError) Template() (string, []any) { return "invalid parameter '%s'", []any{e.Name} }

// ValueError says that a value does not fit its option.
type ValueError struct{ Name, Want string }

// RangeError says that a number is too large for its option.
type RangeError struct{ Name, Value, How string }

func (e *RangeError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *RangeError) Template() (string, []any) {
	return "value '%s' is %s for parameter '%s'", []any{e.Value, e.How, e.Name}
}

// SizeError makes the error for text that is not the size which an option needs.
func SizeError(name, text string, err error) error {
	if errors.Is(err, ErrSizeRange) {
		return &RangeError{Name: name, Value: text, How: "out of range"}
	}
	return &ValueError{name, "a non-negative number below 2^64"}
}

// numberError is SizeError for plain numbers.
func numberError(name, text string, err error) error {
	if errors.Is(err, strconv.ErrRange) {
		return &RangeError{Name: name, Value: text, How: "too large"}
	}
	return &ValueError{name, "a number"}
}

func (e *ValueError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *ValueError) Template() (string, []any) {
	return "parameter '%s' expects %s", []any{e.Name, e.Want}
}

// Decode fills into, a pointer to the struct that s was made of, from d and the
// defaults. Keys that the schema does not have are an UnknownError, values that
// do not fit a ValueError.
func (s *Schema) Decode(d Dict, into any) error {
	v := reflect.ValueOf(into).Elem()
	if v.Type() != s.typ {
		panic(fmt.Sprintf("opts: schema of %s decodes into %s", s.typ, v.Type()))
	}
	s.load()
	for _, k := range d.Keys() {
		if s.Lookup(k) == nil {
			return &UnknownError{Name: k}
		}
	}
	for i := range s.options {
		o := &s.options[i]
		val, given := d[o.Name]
		if !given || val == nil {
			if o.Default == "" {
				continue
			}
			val = o.Default
		}
		if err := o.set(v.FieldByIndex(o.index), val); err != nil {
			return err
		}
	}
	for i := range s.lists {
		if err := s.lists[i].decode(d, v); err != nil {
			return err
		}
	}
	return nil
}

func (o *Option) set(f reflect.Value, val any) error {
	if f.Kind() == reflect.Pointer {
		f.Set(reflect.New(f.Type().Elem()))
		f = f.Elem()
	}
	text := Text(val)
	switch o.Type {
	case TypeBool:
		b, err := ParseBool(text)
		if err != nil {
			return &ValueError{o.Name, "'on' or 'off'"}
		}
		f.SetBool(b)
	case TypeNumber, TypeSize:
		var n int64
		var err error
		if o.Type == TypeSize {
			n, err = ParseSize(text)
		} else {
			n, err = parseNumber(text)
		}
		switch {
		case err != nil && o.Type == TypeSize:
			return SizeError(o.Name, text, err)
		case err != nil:
			return numberError(o.Name, text, err)
		}
		if f.CanUint() {
			f.SetUint(uint64(n))
		} else {
			f.SetInt(n)
		}
	default:
		if o.Enum != nil && !slices.Contains(o.Enum, text) {
			return message.Errorf(nil, "invalid parameter '%s'", text)
		}
		f.SetString(text)
	}
	return nil
}

// ParseBool reads on/off, yes/no, true/false and y/n.
func ParseBool(s string) (bool, error) {
	switch s {
	case "on", "yes", "true", "y":
		return true, nil
	case "off", "no", "false", "n":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither on nor off", s)
}

// parseNumber reads a number as strtoull does, which QEMU's options are read with:
// blanks and a sign may precede it, and a negative number counts from 2^64 down. What
// is above the largest int64 becomes that; no option takes either.
func parseNumber(s string) (int64, error) {
	digits, negative := strings.CutPrefix(strings.TrimLeft(s, " \t\n\v\f\r"), "-")
	if !negative {
		digits = strings.TrimPrefix(digits, "+")
	}
	if strings.ContainsAny(digits, "_oO") || strings.HasPrefix(strings.ToLower(digits), "0b") {
		return 0, strconv.ErrSyntax // Go's numbers only
	}
	n, err := strconv.ParseUint(digits, 0, 64)
	if negative {
		n = -n
	}
	return int64(min(n, math.MaxInt64)), err
}
