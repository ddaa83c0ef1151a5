package plist

import (
	"errors"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
)

func TestRead(t *testing.T) {
	d, err := Read(strings.NewReader(`<?xml version="1.0"?><!DOCTYPE plist PUBLIC "x" "y"><plist version="1.0"><dict>
<key>size</key><integer>512</integer><key>kind</key><string>a&amp;b</string>
<key>nested</key><dict><key>size</key><integer>9</integer></dict><key>flag</key><true/><key>last</key><integer>-1</integer></dict></plist>`))
	if err != nil || len(d) != 3 || d["kind"] != "a&b" {
		t.Fatalf("%v, %v", d, err)
	}
	if n, err := d.Int("size"); n != 512 || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	for _, key := range []string{"last", "kind", "none"} {
		if _, err := d.Int(key); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestHostile(t *testing.T) {
	bomb := `<!DOCTYPE p [<!ENTITY a "` + strings.Repeat("x", 100) + `"><!ENTITY b "&a;&a;&a;">]><plist><dict><key>&b;</key></dict></plist>`
	for name, x := range map[string]struct {
		text string
		want error
	}{
		"entities":    {bomb, driver.ErrCorrupt},
		"deep":        {strings.Repeat("<a>", 1<<16), driver.ErrBudget},
		"many":        {"<plist><dict>" + strings.Repeat("<a/>", 1<<17), driver.ErrBudget},
		"long text":   {"<plist><dict><key>" + strings.Repeat("a<!---->", 5000), driver.ErrBudget},
		"unfinished":  {"<plist><dict><key>a</key>", driver.ErrCorrupt},
		"mismatched":  {"<plist></dict>", driver.ErrCorrupt},
		"not closed":  {"<plist", driver.ErrCorrupt},
		"end element": {"</plist>", driver.ErrCorrupt},
	} {
		if _, err := Read(strings.NewReader(x.text)); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
