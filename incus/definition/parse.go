package definition

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// MaxSize is how many bytes a definition may have.
const MaxSize = 1 << 20

// Options change what Parse makes of a text.
type Options struct {
	// Set are overrides of single values, KEY=VALUE each. KEY is the path of names in the
	// YAML text, with numbers from 0 for entries of lists, such as "image.release" or
	// "packages.sets.0.action". An empty list cannot be reached by it.
	Set []string
	// Now is the time for the serial of an image that has none.
	Now time.Time
}

// Read is Parse of what a reader has.
func Read(r io.Reader, o Options) (*Definition, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, err
	}
	return Parse(text, o)
}

// Parse reads a definition, applies the options, fills in defaults and checks everything.
// Its errors have the words of distrobuilder, in lower case.
func Parse(text []byte, o Options) (*Definition, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("the definition is larger than %d bytes", MaxSize)
	}
	d := &Definition{}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(d); err != nil && err != io.EOF {
		return nil, err
	}
	if err := decoder.Decode(&yaml.Node{}); err == nil {
		return nil, errors.New("the definition has more than one YAML document")
	} else if err != io.EOF {
		return nil, err
	}
	for _, option := range o.Set {
		parts := strings.SplitN(option, "=", 2)
		if len(parts) != 2 {
			return nil, errors.New("options need to be of type key=value")
		}
		if err := d.set(parts[0], parts[1]); err != nil {
			return nil, fmt.Errorf("failed to set option %s: %w", option, err)
		}
	}
	d.defaults(o.Now)
	if err := d.validate(); err != nil {
		return nil, err
	}
	return d, nil
}

// The templates of images that say nothing else.
const (
	defaultName        = "{{ image.distribution }}-{{ image.release }}-{{ image.architecture_mapped }}-{{ image.variant }}-{{ image.serial }}"
	defaultDescription = `{{ image.distribution|capfirst }} {{ image.release }} {{ image.architecture_mapped }}{% if image.variant != "default" %} ({{ image.variant }}){% endif %} ({{ image.serial }})`
)

func (d *Definition) defaults(now time.Time) {
	def := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	def(&d.Image.Architecture, localArchitecture())
	def(&d.Image.Expiry, "30d")
	def(&d.Image.Serial, now.UTC().Format("20060102_1504"))
	def(&d.Image.Variant, "default")
	def(&d.Source.Keyserver, "hkps.pool.sks-keyservers.net")
	def(&d.Image.Name, defaultName)
	def(&d.Image.Description, defaultDescription)
	d.Targets.Type = Container
}

// set changes one value.
func (d *Definition) set(key, value string) error {
	v, err := field(reflect.ValueOf(d).Elem(), strings.Split(key, "."))
	if err != nil {
		return fmt.Errorf("failed to get field by tag: %w", err)
	}
	switch v.Kind() {
	case reflect.Bool:
		b, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("failed to parse bool %q: %w", value, err)
		}
		v.SetBool(b)
	case reflect.Uint, reflect.Uint64:
		n, err := strconv.ParseUint(value, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("failed to parse uint %q: %w", value, err)
		}
		v.SetUint(n)
	case reflect.String:
		v.SetString(value)
	default:
		return fmt.Errorf("unsupported type '%s'", v.Kind())
	}
	return nil
}

// field finds the value at a path of YAML names. An unknown name leads to the struct that
// does not have it, which set refuses.
func field(v reflect.Value, path []string) (reflect.Value, error) {
	for len(path) > 0 {
		switch v.Kind() {
		case reflect.Slice:
			i, err := strconv.Atoi(path[0])
			if err != nil {
				return v, err
			}
			if i < 0 || i >= v.Len() {
				return v, errors.New("index out of range")
			}
			v = v.Index(i)
		case reflect.Struct:
			next, ok := byTag(v, path[0])
			if !ok {
				return v, nil
			}
			v = next
		case reflect.Pointer:
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
			continue
		default: // a value, or a map, which set refuses
			return reflect.Value{}, fmt.Errorf("nothing is below a value: %q", path[0])
		}
		path = path[1:]
	}
	return v, nil
}

// byTag returns the field of a struct that a YAML name means, those of an inlined one
// included.
func byTag(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		tag, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if tag == name && name != "" {
			return v.Field(i), true
		}
		if options == "inline" {
			if f, ok := byTag(v.Field(i), name); ok {
				return f, true
			}
		}
	}
	return v, false
}
