package opts

import (
	"errors"
	"strings"
	"testing"
)

type helpDecl struct {
	Size  int64  `opt:"size" type:"size" help:"Virtual disk size"`
	Lazy  bool   `opt:"lazy_refcounts" default:"off" help:"Postpone refcount updates"`
	Bits  int    `opt:"refcount_bits" help:"Width"`
	Plain string `opt:"plain"`
}

func TestWriteHelp(t *testing.T) {
	s := Merge(SchemaOf(helpDecl{}), nil, SchemaOf(struct {
		Size string `opt:"size" help:"another"`
		Hint int64  `opt:"hint" type:"size" help:"Hint"`
	}{}))
	var b strings.Builder
	if err := s.WriteHelp(&b, "Supported options:"); err != nil {
		t.Fatal(err)
	}
	want := `Supported options:
  hint=<size>            - Hint
  lazy_refcounts=<bool (on/off)> - Postpone refcount updates
  plain=<str>
  refcount_bits=<num>    - Width
  size=<size>            - Virtual disk size
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestCheck(t *testing.T) {
	s := SchemaOf(helpDecl{})
	if err := s.Check(Dict{"size": "15E", "lazy_refcounts": "on", "refcount_bits": "0x10", "plain": "x"}); err != nil {
		t.Error(err)
	}
	for _, d := range []Dict{{"size": "x"}, {"lazy_refcounts": "maybe"}, {"refcount_bits": "1k"}} {
		var v *ValueError
		if err := s.Check(d); !errors.As(err, &v) {
			t.Errorf("Check(%v) = %v", d, err)
		}
	}
	var u *UnknownError
	if err := s.Check(Dict{"bogus": "1"}); !errors.As(err, &u) || u.Name != "bogus" {
		t.Errorf("error %v", err)
	}
}

func TestValidList(t *testing.T) {
	for list, want := range map[string]bool{"": false, ",": false, ",,": false, "a,": false, "a,,": true, "a=1,b": true, ",a": false, "a,,,": false, "a": true} {
		if got := ValidList(list); got != want {
			t.Errorf("ValidList(%q) = %t", list, got)
		}
	}
	for list, want := range map[string]bool{"help": true, "a=1,?": true, "helpme": false, "a=help": false} {
		if got := WantsHelp(list); got != want {
			t.Errorf("WantsHelp(%q) = %t", list, got)
		}
	}
}
