package opts

import (
	"errors"
	"reflect"
	"testing"
)

type host struct {
	Name string `opt:"name"`
	Port int64  `opt:"port" default:"7"`
}

// TestGroups: structures and lists of structures are options with dotted names.
func TestGroups(t *testing.T) {
	type decl struct {
		Server host   `opt:"server"`
		Others []host `opt:"others"`
		Plain  bool   `opt:"plain"`
	}
	s := SchemaOf(decl{})
	for name, known := range map[string]bool{"server.name": true, "others.0.port": true, "others.1023.name": true, "plain": true,
		"server": false, "others": false, "others.0": false, "others.01.name": false, "others.-1.name": false, "others.1024.name": false,
		"others.x.name": false, "others.0.other": false, "server.0.name": false, "name": false} {
		if got := s.Lookup(name) != nil; got != known {
			t.Errorf("%s is known: %v", name, got)
		}
	}
	var got decl
	err := s.Decode(Dict{"server.name": "a", "server.port": "1", "others.1.name": "c", "others.0.name": "b", "others.0.port": "2", "plain": "on"}, &got)
	want := decl{Server: host{"a", 1}, Others: []host{{"b", 2}, {"c", 7}}, Plain: true}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	var value *ValueError
	if err := s.Decode(Dict{"others.0.port": "x"}, new(decl)); !errors.As(err, &value) || value.Name != "others.0.port" {
		t.Errorf("%v", err)
	}
	var unknown *UnknownError
	if err := s.Decode(Dict{"others.0.size": "x"}, new(decl)); !errors.As(err, &unknown) || unknown.Name != "others.0.size" {
		t.Errorf("%v", err)
	}
	if err := s.Decode(Dict{"others.1.port": "1"}, new(decl)); err == nil {
		t.Error("a list with a gap is taken")
	}
	if err := s.Check(Dict{"others.5.port": "x"}); err == nil {
		t.Error("a number that is none is taken")
	}
}
