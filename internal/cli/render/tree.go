package render

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// member is a member of an object.
type member struct {
	key string
	val any
}

// object keeps members in the order of QEMU.
type object []member

func (o object) sort() {
	sort.SliceStable(o, func(i, j int) bool { return bucket(o[i].key) < bucket(o[j].key) })
}

// tree is the generic form of a value, as encoding/json would encode it: object, []any, string, json.Number,
// bool or nil. Encoding a value to decode the text takes longer than all else that info does once: the encoder
// prepares itself for each type.
func tree(v any) (any, error) { return treeOf(reflect.ValueOf(v)) }

// encodesItself says whether a value, or a pointer to it where there can be one, has a method for encoding/json.
func encodesItself(v reflect.Value) bool {
	t := v.Type()
	if v.CanAddr() {
		t = reflect.PointerTo(t)
	}
	return t.Implements(jsonMarshaler) || t.Implements(textMarshaler)
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

func treeOf(v reflect.Value) (any, error) {
	if !v.IsValid() {
		return nil, nil
	}
	if encodesItself(v) {
		return encoded(v)
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return treeOf(v.Elem())
	case reflect.Struct:
		return structTree(v)
	case reflect.Slice:
		if v.IsNil() {
			return nil, nil
		}
		if v.Type().Elem().Kind() != reflect.Uint8 {
			return listTree(v)
		}
	case reflect.String:
		return validText(v.String()), nil
	case reflect.Bool:
		return v.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return json.Number(strconv.FormatInt(v.Int(), 10)), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return json.Number(strconv.FormatUint(v.Uint(), 10)), nil
	}
	return encoded(v)
}

func listTree(v reflect.Value) (any, error) {
	list := make([]any, v.Len())
	for i := range list {
		var err error
		if list[i], err = treeOf(v.Index(i)); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func structTree(v reflect.Value) (any, error) {
	obj := object{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || options != "" && options != "omitempty" {
			return encoded(v)
		}
		if !f.IsExported() || key == "-" || options == "omitempty" && isEmpty(v.Field(i)) {
			continue
		}
		if key == "" {
			key = f.Name
		}
		val, err := treeOf(v.Field(i))
		if err != nil {
			return nil, err
		}
		obj = append(obj, member{key, val})
	}
	obj.sort()
	return obj, nil
}

// isEmpty tells what omitempty leaves out.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.String, reflect.Map, reflect.Array:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// validText replaces what is no UTF-8, byte by byte, as JSON has no other text.
func validText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// encoded is the tree of a value that encoding/json has to encode.
func encoded(v reflect.Value) (any, error) {
	if v.CanAddr() {
		v = v.Addr()
	}
	text, err := json.Marshal(v.Interface())
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return decode(dec)
}
