package object_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/object"
)

// TestISCSI: the settings of a target are its own, else the first ones.
func TestISCSI(t *testing.T) {
	var s object.Set
	for _, def := range []string{"user=first", "id=iqn.a:b,user=joe,header-digest=CRC32C-NONE", "user=third"} {
		if err := s.DefineISCSI(def); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string]string{"iscsi/": "first", "iscsi/iqn.a:b": "joe"} {
		if d, ok := s.Object(id).(driver.Defaults); !ok || d["user"] != want {
			t.Errorf("%s: %v", id, s.Object(id))
		}
	}
	if d := s.Object("iscsi/iqn.a:b").(driver.Defaults); d["header-digest"] != "crc32c-none" {
		t.Errorf("%v", d)
	}
	for def, want := range map[string]string{"foo=1": "Invalid parameter 'foo'", "id=iqn.a:b": "Duplicate ID 'iqn.a:b' for iscsi"} {
		if err := s.DefineISCSI(def); err == nil || err.Error() != want {
			t.Errorf("%s: %v", def, err)
		}
	}
}

func TestReadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c")
	read := func(text string) (*object.Set, error) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		s := &object.Set{}
		return s, s.ReadConfig(file)
	}
	s, err := read("# a comment\n[drive \"d\"]\n  file = \"x\"\n\n[object \"sec\"]\n qom-type = \"secret\"\n data = \"a,b\"\n[iscsi \"iqn.t\"]\n user=\"joe\"\n password-secret = \"sec\"\n")
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := driver.FindObject[driver.Secret](s, "sec"); err != nil || string(secret) != "a,b" {
		t.Errorf("%q, %v", secret, err)
	}
	if d, ok := s.Object("iscsi/iqn.t").(driver.Defaults); !ok || d["user"] != "joe" || d["password-secret"] != "sec" {
		t.Errorf("%v", d)
	}
	for text, want := range map[string]string{
		"[iscsi\n":                            ":1: parse error",
		"[iscsi x]\n":                         ":1: parse error",
		"[iscsi]\nuser joe\n":                 ":2: parse error",
		"[iscsi]\nuser = joe\n":               ":2: parse error",
		"user = \"joe\"\n":                    ":1: no group defined",
		"[iscsi]\nfoo = \"1\"\n":              ": Invalid parameter 'foo'",
		"[iscsi]\nfoo = \"1\"\n[iscsi]\n":     ":3: Invalid parameter 'foo'",
		"[object \"x\"]\nqom-type = \"no\"\n": ": Parameter 'qom-type' does not accept value 'no'",
		strings.Repeat("#\n", 600<<10):        "the file is too large",
		strings.Repeat("#", 2<<20):            "token too long",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	if err := (&object.Set{}).ReadConfig(file + ".none"); err == nil || !strings.HasPrefix(err.Error(), "Cannot read config file "+file+".none: no such file") {
		t.Error(err)
	}
}
