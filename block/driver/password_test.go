package driver_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
)

func TestHidePassword(t *testing.T) {
	for name, want := range map[string]string{
		"http://u:p@h/x":        "http://u:***@h/x",
		"http://u:p:q@r@h:1/x":  "http://u:***@h:1/x",
		"ftp://u:p@h":           "ftp://u:***@h",
		"http://u@h/a:b@c":      "http://u@h/a:b@c",
		"http://h/u:p@x":        "http://h/u:p@x",
		"http://h?a=u:p@x":      "http://h?a=u:p@x",
		"iscsi://u%p@h/iqn.x/1": "iscsi://u%***@h/iqn.x/1",
		"a:b@c":                 "a:b@c",
		"":                      "",
	} {
		if got := driver.HidePassword(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
