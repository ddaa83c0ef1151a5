package opts

import (
	"strings"
	"testing"
)

// TestCheckOrder: of several options that are wrong, the one that was given first is named.
func TestCheckOrder(t *testing.T) {
	s := SchemaOf(struct {
		Size int64 `opt:"size" type:"size"`
	}{})
	for list, want := range map[string]string{
		"foo=1,bar=2":           "invalid parameter 'foo'",
		"bar=2,foo=1":           "invalid parameter 'bar'",
		"zoo=,,x,size=y,bar=2":  "invalid parameter 'zoo'",
		"size=y,bar=2":          "parameter 'size' expects",
		"nofoo,size=1,bar=2":    "invalid parameter 'foo'",
		"size=1,nothing,bar=on": "invalid parameter 'thing'",
	} {
		d := Dict{}
		if err := d.ParseList(list, ""); err != nil {
			t.Fatal(err)
		}
		if err := s.Check(d, ListKeys(list)...); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", list, err, want)
		}
	}
	if err := s.Check(Dict{"size": "1"}, "gone", "size"); err != nil {
		t.Errorf("an option that is not given: %v", err)
	}
}
