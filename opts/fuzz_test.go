package opts

import (
	"strings"
	"testing"
)

func FuzzParseJSON(f *testing.F) {
	for _, s := range []string{`{}`, `{"driver":"raw","file":{"filename":"x"}}`, `{"a":[1,{"b":null}],"c":true}`, `{"a":`, `[1]`, strings.Repeat(`{"a":`, 80)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseJSON(s)
		if err != nil {
			return
		}
		for k, v := range d {
			switch v.(type) {
			case nil, string, bool:
			default:
				_ = Text(v)
			}
			if strings.Count(k, ".") > len(s) {
				t.Errorf("key %q out of %q", k, s)
			}
		}
	})
}

func FuzzParseList(f *testing.F) {
	for _, s := range []string{"a=1,b", "a,,b=c", "noa,,,", "=", "x=,y==", "help"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := Dict{}
		if err := d.ParseList(s, ""); err != nil {
			return
		}
		// What was read can be written and read again.
		var parts []string
		for _, k := range d.Keys() {
			if strings.ContainsAny(k, ",=") {
				return
			}
			parts = append(parts, k+"="+EscapeComma(d.String(k)))
		}
		again := Dict{}
		if err := again.ParseList(strings.Join(parts, ","), ""); err != nil {
			t.Fatalf("%q: %v", parts, err)
		}
		if len(again) != len(d) {
			t.Fatalf("%v read again as %v", d, again)
		}
		for k := range d {
			if d[k] != again[k] {
				t.Fatalf("%v read again as %v", d, again)
			}
		}
	})
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"1", "1.5k", "0x10", "-1", ".5G", "7.99E", "16E", "1e3", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err == nil && n < 0 || err != nil && n != 0 {
			t.Errorf("ParseSize(%q) = %d, %v", s, n, err)
		}
		u, uerr := ParseSizeUint(s, 'b')
		if err == nil && (uerr != nil || u != uint64(n)) {
			t.Errorf("ParseSizeUint(%q) = %d, %v beside %d", s, u, uerr, n)
		}
	})
}
