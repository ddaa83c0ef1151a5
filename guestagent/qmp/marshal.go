package qmp

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
)

// Tag is the key of struct tags that name members: `qga:"host-name"`. With
// ",optional" a nil pointer or slice is left out.
const Tag = "qga"

// Field is a member of an object that a struct stands for.
type Field struct {
	Name     string
	Optional bool
	Index    int // of the struct's field
}

// Fields returns the tagged fields of a struct type, in the order of declaration.
func Fields(t reflect.Type) []Field {
	var fields []Field
	for i := range t.NumField() {
		tag, ok := t.Field(i).Tag.Lookup(Tag)
		if !ok {
			continue
		}
		name, opt, _ := strings.Cut(tag, ",")
		fields = append(fields, Field{Name: name, Optional: opt == "optional", Index: i})
	}
	return fields
}

// ordered holds the fields of a struct type in QEMU's order, by reflect.Type. It is a
// cache: what it holds follows from the types alone.
var ordered sync.Map

func orderedFields(t reflect.Type) []Field {
	if f, ok := ordered.Load(t); ok {
		return f.([]Field)
	}
	declared := Fields(t)
	var fields []Field
	for _, i := range order(len(declared), func(i int) string { return declared[i].Name }) {
		fields = append(fields, declared[i])
	}
	ordered.Store(t, fields)
	return fields
}

// Marshal appends what a Go value stands for: structs with tagged fields are objects,
// whose members were inserted as the fields are declared.
func Marshal(p []byte, value any) []byte {
	switch v := value.(type) {
	case string:
		return appendString(p, v)
	case int64:
		return Append(p, v)
	case *Dict:
		return Append(p, v)
	}
	return marshal(p, reflect.ValueOf(value))
}

func marshal(p []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Pointer:
		return marshal(p, v.Elem())
	case reflect.Bool:
		return Append(p, v.Bool())
	case reflect.Int, reflect.Int64, reflect.Int32:
		return Append(p, v.Int())
	case reflect.Uint64, reflect.Uint32, reflect.Uint16:
		return Append(p, v.Uint())
	case reflect.Float64:
		return Append(p, v.Float())
	case reflect.String:
		return appendString(p, v.String())
	case reflect.Slice:
		p = append(p, '[')
		for i := range v.Len() {
			if i > 0 {
				p = append(p, ", "...)
			}
			p = marshal(p, v.Index(i))
		}
		return append(p, ']')
	case reflect.Struct:
		p = append(p, '{')
		first := true
		for _, f := range orderedFields(v.Type()) {
			x := v.Field(f.Index)
			if f.Optional && x.IsNil() {
				continue
			}
			if !first {
				p = append(p, ", "...)
			}
			first = false
			p = marshal(append(appendString(p, f.Name), ": "...), x)
		}
		return append(p, '}')
	}
	panic(fmt.Sprintf("qmp: cannot marshal %s", v.Type()))
}
