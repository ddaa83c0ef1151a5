package qmp

import (
	"slices"
	"strings"
	"testing"
)

// parse returns what a reader makes of a stream: values as they are written, and
// errors.
func parse(stream string) []string {
	var got []string
	r := NewReader(func(value any, err error) {
		if err != nil {
			got = append(got, "error: "+err.Error())
			return
		}
		got = append(got, string(Append(nil, value)))
	})
	r.Feed([]byte(stream))
	return got
}

func TestReader(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		want         []string
	}{
		{"order of members", `{"id":1,"return":2,"error":3}`, []string{`{"return": 2, "id": 1, "error": 3}`}},
		{"back to back", `{}[1]`, []string{`{}`, `[1]`}},
		{"recovery", "hello?\n[]", []string{"error: JSON parse error, invalid keyword 'hello'", "error: JSON parse error, stray '?'", `[]`}},
		{"surrogates", `"\ud83d\ude00"`, []string{`"\uD83D\uDE00"`}},
		{"modified UTF-8", `"\u0000"`, []string{`"\u0000"`}},
		{"numbers", `[-0,18446744073709551615,18446744073709551616,1.10]`, []string{`[0, 18446744073709551615, 1.8446744073709552e+19, 1.1000000000000001]`}},
	} {
		if got := parse(c.stream); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestBounds holds the reader to its bounds.
func TestBounds(t *testing.T) {
	if got := parse(strings.Repeat("[", MaxNesting+1)); len(got) != 1 || got[0] != "error: JSON nesting depth limit exceeded" {
		t.Errorf("%.100q", got)
	}
	if got := parse(`"` + strings.Repeat("x", MaxTokenBytes+10)); len(got) != 1 || got[0] != "error: JSON token size limit exceeded" {
		t.Errorf("%.100q", got)
	}
	if got := parse("[" + strings.Repeat("1,", MaxTokens/2)); len(got) == 0 || got[0] != "error: JSON token count limit exceeded" {
		t.Errorf("%.100q", got)
	}
}

// TestManyMembers holds that an object with very many members takes no time in
// proportion to their square.
func TestManyMembers(t *testing.T) {
	d := &Dict{}
	for i := range 300_000 {
		d.Put(strings.Repeat("k", i%7)+string(rune('a'+i%26))+strings.Repeat("z", i%5)+itoa(i), int64(i))
	}
	if d.Len() != 300_000 {
		t.Errorf("%d members", d.Len())
	}
	last := -1
	for key := range d.All() {
		if b := bucketOf(key); b < last {
			t.Fatal("the members are not in order")
		} else {
			last = b
		}
	}
}

func itoa(i int) string { return string(Append(nil, int64(i))) }
