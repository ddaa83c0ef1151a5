package guestagent

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/cowl-disk/cowl/guestagent/qmp"
)

// alternate is an argument that may have one of several types.
type alternate interface {
	// decodeValue takes a value. path names the argument in errors.
	decodeValue(path string, value any) error
}

func typeError(path, want string) error {
	return fmt.Errorf("Invalid parameter type for '%s', expected: %s", path, want)
}

// decodeArgs fills a struct with tagged fields from the arguments of a request. It
// checks in QEMU's order: first each declared argument, then whether others are there.
func decodeArgs(dict *qmp.Dict, out reflect.Value) error {
	return decodeStruct("", dict, out)
}

func decodeStruct(path string, dict *qmp.Dict, out reflect.Value) error {
	fields := qmp.Fields(out.Type())
	known := 0
	for _, f := range fields {
		name := f.Name
		if path != "" {
			name = path + "." + name
		}
		v, ok := dict.Get(f.Name)
		if !ok {
			if f.Optional {
				continue
			}
			return fmt.Errorf("Parameter '%s' is missing", name)
		}
		known++
		if err := decode(name, v, out.Field(f.Index)); err != nil {
			return err
		}
	}
	if known == dict.Len() {
		return nil
	}
	var rest, all []string
	for key := range dict.All() {
		all = append(all, key)
		if !slices.ContainsFunc(fields, func(f qmp.Field) bool { return f.Name == key }) {
			rest = append(rest, key)
		}
	}
	name := rest[0]
	if len(rest) > 1 {
		declared := make([]string, len(fields))
		for i, f := range fields {
			declared[i] = f.Name
		}
		name = firstUnexpected(all, declared)
	}
	if path != "" {
		name = path + "." + name
	}
	return fmt.Errorf("Parameter '%s' is unexpected", name)
}

func decode(path string, value any, out reflect.Value) error {
	if out.CanAddr() {
		if a, ok := out.Addr().Interface().(alternate); ok {
			return a.decodeValue(path, value)
		}
	}
	switch out.Kind() {
	case reflect.Pointer:
		out.Set(reflect.New(out.Type().Elem()))
		return decode(path, value, out.Elem())
	case reflect.String:
		s, ok := value.(string)
		if !ok {
			return typeError(path, "string")
		}
		out.SetString(s)
	case reflect.Bool:
		b, ok := value.(bool)
		if !ok {
			return typeError(path, "boolean")
		}
		out.SetBool(b)
	case reflect.Int64:
		i, ok := value.(int64)
		if !ok {
			return typeError(path, "integer")
		}
		out.SetInt(i)
	case reflect.Uint64:
		switch n := value.(type) {
		case int64: // negative ones are taken as they always were
			out.SetUint(uint64(n))
		case uint64:
			out.SetUint(n)
		default:
			return fmt.Errorf("Parameter '%s' expects uint64", path)
		}
	case reflect.Struct:
		d, ok := value.(*qmp.Dict)
		if !ok {
			return typeError(path, "object")
		}
		return decodeStruct(path, d, out)
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			return typeError(path, "array")
		}
		out.Set(reflect.MakeSlice(out.Type(), len(list), len(list)))
		for i, v := range list {
			if err := decode(fmt.Sprintf("%s[%d]", path, i), v, out.Index(i)); err != nil {
				return err
			}
		}
	default:
		panic("guestagent: no argument can be a " + out.Type().String())
	}
	return nil
}

// enumError is the error of a name that is none of an enumeration.
func enumError(path, value string) error {
	return fmt.Errorf("Parameter '%s' does not accept value '%s'", path, value)
}
