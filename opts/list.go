package opts

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// maxList bounds the number of members of a list.
const maxList = 1024

// list is a declared list of groups of options.
type list struct {
	name  string
	elem  *Schema
	index []int // of the field
}

// member reads "NAME.NUMBER.OPTION" and returns the number and the option.
func (l *list) member(name string) (n int, option string, ok bool) {
	rest, ok := strings.CutPrefix(name, l.name+".")
	if !ok {
		return 0, "", false
	}
	digits, option, ok := strings.Cut(rest, ".")
	u, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil || u >= maxList || strconv.Itoa(int(u)) != digits {
		return 0, "", false
	}
	return int(u), option, true
}

// decode fills the list's field of v with the members that d has. They are numbered from
// 0 without gaps.
func (l *list) decode(d Dict, v reflect.Value) error {
	members := map[int]Dict{}
	for k, val := range d {
		if n, option, ok := l.member(k); ok {
			if members[n] == nil {
				members[n] = Dict{}
			}
			members[n][option] = val
		}
	}
	field := v.FieldByIndex(l.index)
	field.Set(reflect.MakeSlice(field.Type(), len(members), len(members)))
	for n := range len(members) {
		m, ok := members[n]
		if !ok {
			return fmt.Errorf("Parameter '%s.%d' is missing", l.name, n)
		}
		if err := l.elem.Decode(m, field.Index(n).Addr().Interface()); err != nil {
			return l.within(n, err)
		}
	}
	return nil
}

// within gives an error of a member the full name of its option.
func (l *list) within(n int, err error) error {
	prefix := fmt.Sprintf("%s.%d.", l.name, n)
	switch e := err.(type) {
	case *UnknownError:
		return &UnknownError{Name: prefix + e.Name}
	case *ValueError:
		return &ValueError{prefix + e.Name, e.Want}
	case *RangeError:
		return &RangeError{Name: prefix + e.Name, Value: e.Value, How: e.How}
	}
	return err
}
