package opts

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
)

func TestParseJSON(t *testing.T) {
	tests := []struct {
		in   string
		want Dict
	}{
		{`{}`, Dict{}},
		{`{"driver":"raw","file":{"driver":"file","filename":"x"}}`, Dict{"driver": "raw", "file.driver": "file", "file.filename": "x"}},
		{`{'driver':'raw','file.filename':'a"b'}`, Dict{"driver": "raw", "file.filename": `a"b`}},
		{`{"a":"it's","b":'it\'s',"c":"it\'s"}`, Dict{"a": "it's", "b": "it's", "c": "it's"}},
		{`{"a":'\\',"b":"\\"}`, Dict{"a": `\`, "b": `\`}},
		{`{"l":[1,{"x":null}],"t":true,"n":1.5}`, Dict{"l.0": json.Number("1"), "l.1.x": nil, "t": true, "n": json.Number("1.5")}},
	}
	for _, tt := range tests {
		got, err := ParseJSON(tt.in)
		if err != nil || !maps.Equal(got, tt.want) {
			t.Errorf("ParseJSON(%s) = %v, %v; want %v", tt.in, got, err, tt.want)
		}
	}
	for in, want := range map[string]string{
		``:                           "could not parse the JSON options: expecting a JSON value",
		`[1]`:                        "invalid JSON object given",
		`{"a":1} x`:                  "could not parse the JSON options: expecting at most one JSON value",
		`{"a":1,"a":2}`:              "could not parse the JSON options: JSON parse error, duplicate key",
		`{"a":{"b":1},"a.b":2}`:      "could not parse the JSON options: JSON parse error, duplicate key",
		`{"a":`:                      "could not parse the JSON options: JSON parse error, unexpected EOF",
		`{'a`:                        "could not parse the JSON options: JSON parse error, unexpected EOF",
		strings.Repeat(`{"a":`, 100): errDepth.Error(),
	} {
		if d, err := ParseJSON(in); err == nil || err.Error() != want {
			t.Errorf("ParseJSON(%.20s) = %v, %v; want %s", in, d, err, want)
		}
	}
}
