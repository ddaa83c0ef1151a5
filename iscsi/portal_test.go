package iscsi_test

import (
	"testing"

	"github.com/cowl-disk/cowl/iscsi"
)

func TestParsePortal(t *testing.T) {
	for url, want := range map[string][3]string{
		"iscsi://h":                  {"h"},
		"iscsi://h:1/":               {"h:1"},
		"iscsi://[fd00::1]:1/x/2?y":  {"[fd00::1]:1"},
		"iscsi://joe@h":              {"h", "joe"},
		"iscsi://joe%p%a@ss@h:1/iqn": {"h:1", "joe", "p%a@ss"},
		"iscsi://%x@h?a":             {"h"},
	} {
		address, chap, err := iscsi.ParsePortal(url)
		if chap == nil {
			chap = &iscsi.Credentials{}
		}
		if got := [3]string{address, chap.User, chap.Secret}; err != nil || got != want {
			t.Errorf("%s: %v, %v", url, got, err)
		}
	}
	for _, url := range []string{"", "h", "iscsi://", "iscsi:///x", "iscsi://joe@", "nfs://h"} {
		if _, _, err := iscsi.ParsePortal(url); err == nil {
			t.Errorf("%s is taken", url)
		}
	}
}
