package opts

import (
	"reflect"
	"testing"
)

// Tags say the same as to package reflect.
func TestReadTag(t *testing.T) {
	for name, field := range map[string]reflect.StructTag{
		"all":      `opt:"a" type:"size" default:"64k" help:"b c" enum:"x,y" deprecated:"d" hidden:"on" runtime:"on"`,
		"some":     `help:"b: c" opt:"a"`,
		"escapes":  `help:"say \"no\"\tor \\n" opt:"a"`,
		"spaces":   `  opt:"a"   help:"b"`,
		"foreign":  `json:"z,omitempty" opt:"a"`,
		"none":     ``,
		"unquoted": `opt:a help:"b"`,
		"cut":      `opt:"a" help:"b`,
	} {
		got := readTag(field)
		for _, key := range []string{"opt", "type", "default", "help", "enum", "deprecated", "hidden", "runtime"} {
			if got, want := *got.part(key), field.Get(key); got != want {
				t.Errorf("%s: %s is %q, want %q", name, key, got, want)
			}
		}
	}
}
