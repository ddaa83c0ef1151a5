package opts

import (
	"sync"
	"testing"
)

// TestSchemaFirstUse: a declaration is read by whatever uses it first, once, also from several goroutines.
func TestSchemaFirstUse(t *testing.T) {
	type group struct {
		Path string `opt:"path"`
	}
	type declaration struct {
		Size  *int64  `opt:"size" type:"size" default:"65536"`
		Parts []group `opt:"parts"`
	}
	for name, use := range map[string]func(s *Schema) bool{
		"List":            func(s *Schema) bool { return len(s.List()) == 1 && s.List()[0].Name == "size" },
		"Lookup":          func(s *Schema) bool { return s.Lookup("size") != nil && s.Lookup("parts.0.path") != nil },
		"Lookup, a group": func(s *Schema) bool { return s.Lookup("parts.1.path") != nil },
		"Check":           func(s *Schema) bool { return s.Check(Dict{"size": "1k", "parts.0.path": "x"}) == nil },
		"Merge":           func(s *Schema) bool { return Merge(nil, s).Lookup("size") != nil },
		"Decode": func(s *Schema) bool {
			var d declaration
			return s.Decode(Dict{}, &d) == nil && d.Size != nil && *d.Size == 65536
		},
		"Decode, a group": func(s *Schema) bool {
			var d declaration
			return s.Decode(Dict{"parts.0.path": "x"}, &d) == nil && len(d.Parts) == 1 && d.Parts[0].Path == "x"
		},
	} {
		s := SchemaOf(declaration{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if !use(s) {
					t.Errorf("%s: the declaration is not read", name)
				}
			})
		}
		wg.Wait()
		if n := len(s.List()); n != 1 {
			t.Errorf("%s: %d options", name, n)
		}
	}
}

// TestSchemaWrong: a field of a type that no option has is refused by the first use.
func TestSchemaWrong(t *testing.T) {
	s := SchemaOf(struct {
		F float64 `opt:"f"`
	}{})
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	s.List()
}
