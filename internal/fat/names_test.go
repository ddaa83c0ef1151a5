package fat_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/fat"
)

func TestShortNames(t *testing.T) {
	names := []string{"README", "readme.txt", "Readme.tx", "long file name.html", "long file other.html", "a.b.c", ".profile", "日本.x", "x+y", "FILE~1", "file~1", "LONG FILE.HTM"}
	want := []string{"README     |false", "README  TXT|true", "README  TX |true", "LONGFI~1HTM|true", "LONGFI~2HTM|true", "AB~1    C  |true", "PROFIL~1   |true", "__~1    X  |true", "X_Y~1      |true", "FILE~1     |false", "FILE~1~1   |true", "LONGFI~3HTM|true"}
	short, long := fat.ShortNames(names)
	seen := map[[11]byte]bool{}
	for i, name := range names {
		if got := fmt.Sprintf("%s|%v", short[i][:], long[i]); got != want[i] {
			t.Errorf("%q: %s, want %s", name, got, want[i])
		}
		if seen[short[i]] {
			t.Errorf("%s twice", short[i][:])
		}
		seen[short[i]] = true
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "日本.x": true, strings.Repeat("n", 255): true, "a b": true, ".a": true,
		"": false, ".": false, "..": false, "a/b": false, "a\x00": false, "a\\b": false, "a.": false, "a ": false, " a": false, "a\xff": false,
		strings.Repeat("n", 256): false, strings.Repeat("\U0001F600", 128): false, "a:b": false, "a\x7f": false,
	} {
		if err := fat.CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
