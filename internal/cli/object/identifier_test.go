package object

import "testing"

func TestIdentifiers(t *testing.T) {
	for c := range 256 {
		b := byte(c)
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		if got := isIdentifier(string([]byte{b})); got != letter {
			t.Errorf("%q: %t", b, got)
		}
		inside := letter || b >= '0' && b <= '9' || b == '-' || b == '.' || b == '_'
		if got := isIdentifier(string([]byte{'a', b})); got != inside {
			t.Errorf("a and %q: %t", b, got)
		}
	}
	if isIdentifier("") {
		t.Error("nothing is an identifier")
	}
}
