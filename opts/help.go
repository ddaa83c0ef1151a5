package opts

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Merge returns the options of several schemas; of those with one name the
// first counts that is not hidden. The result checks and describes options, it does not decode
// them. Nil schemas are skipped.
func Merge(schemas ...*Schema) *Schema {
	m := &Schema{}
	for _, s := range schemas {
		if s == nil {
			continue
		}
		for _, o := range s.List() {
			switch have := m.Lookup(o.Name); {
			case have == nil:
				m.options = append(m.options, o)
			case have.Hidden && !o.Hidden:
				*have = o
			}
		}
	}
	return m
}

// Check verifies names and the types of values: an UnknownError or a ValueError
// says what does not fit. Of several options, those of first come first, in that order.
func (s *Schema) Check(d Dict, first ...string) error {
	for _, k := range append(first[:len(first):len(first)], d.Keys()...) {
		if _, given := d[k]; !given {
			continue
		}
		o := s.Lookup(k)
		if o == nil {
			return &UnknownError{Name: k}
		}
		if err := o.check(d[k]); err != nil {
			return err
		}
	}
	return nil
}

// check verifies the type of a value; whether a string is one of those allowed
// is for the driver to say.
func (o *Option) check(v any) error {
	text := Text(v)
	switch o.Type {
	case TypeBool:
		if _, err := ParseBool(text); err != nil {
			return &ValueError{o.Name, "'on' or 'off'"}
		}
	case TypeNumber:
		if _, err := parseNumber(text); err != nil {
			return numberError(o.Name, text, err)
		}
	case TypeSize:
		if _, err := ParseSizeUint(text, 'b'); err != nil {
			return SizeError(o.Name, text, err)
		}
	}
	return nil
}

// WriteHelp writes the list of options that "-o help" prints, sorted by name.
// The caption is a line of its own before it.
func (s *Schema) WriteHelp(w io.Writer, caption string) error {
	lines := make([]string, 0, len(s.List()))
	for _, o := range s.List() {
		if o.Hidden {
			continue
		}
		typ := map[Type]string{TypeString: "str", TypeBool: "bool (on/off)", TypeNumber: "num", TypeSize: "size"}[o.Type]
		line := fmt.Sprintf("  %s=<%s>", o.Name, typ)
		if o.Help != "" {
			line = fmt.Sprintf("%-24s - %s", line, o.Help)
		}
		lines = append(lines, line+"\n")
	}
	slices.Sort(lines)
	_, err := io.WriteString(w, caption+"\n"+strings.Join(lines, ""))
	return err
}

// WantsHelp says whether an option list asks for the list of options.
func WantsHelp(list string) bool {
	for _, item := range SplitComma(list) {
		if item == "help" || item == "?" {
			return true
		}
	}
	return false
}

// ValidList says whether a string can be one of several that are
// joined by commas: it does not begin or end with a single comma,
// and is not empty.
func ValidList(list string) bool {
	if list == "" || list[0] == ',' {
		return false
	}
	n := 0
	for n < len(list) && list[len(list)-1-n] == ',' {
		n++
	}
	return n%2 == 0
}
