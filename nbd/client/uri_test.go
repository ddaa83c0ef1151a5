package client

import (
	"strings"
	"testing"
)

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]Target{
		"nbd://example.org":           {Network: "tcp", Address: "example.org:10809", Host: "example.org"},
		"nbd://example.org:99/a%20b":  {Network: "tcp", Address: "example.org:99", Host: "example.org", Export: "a b"},
		"nbd://[::1]/x/y":             {Network: "tcp", Address: "[::1]:10809", Host: "::1", Export: "x/y"},
		"nbd://":                      {Network: "tcp", Address: "localhost:10809"},
		"nbd:///x":                    {Network: "tcp", Address: "localhost:10809", Export: "x"},
		"nbd://h//x":                  {Network: "tcp", Address: "h:10809", Host: "h", Export: "/x"},
		"nbds://u@h/x":                {Network: "tcp", Address: "h:10809", Host: "h", Export: "x", TLS: true, TLSUsername: "u"},
		"nbd+unix:///x?socket=/run/s": {Network: "unix", Address: "/run/s", Export: "x"},
		"nbd+unix://?socket=s":        {Network: "unix", Address: "s"},
		"nbds+unix:///?socket=/s&tls-certificates=/c&z=1": {Network: "unix", Address: "/s", TLS: true, TLSCertificates: "/c"},
		"nbd+vsock://3:99/x":                              {Network: "vsock", Address: "3:99", Host: "3", Export: "x"},
		"nbd+vsock:///x":                                  {Network: "vsock", Address: "2:10809", Host: "2", Export: "x"},
		"nbd+tcp://h":                                     {Network: "tcp", Address: "h:10809", Host: "h"},
	} {
		got, err := ParseURI(uri)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", uri, got, err)
		}
	}
	for _, uri := range []string{"http://h", "nbd:h", "nbd+unix:///x", "nbd+unix://h/x?socket=s", "nbd://h?socket=s", "nbd+ssh://h",
		"nbd+vsock://host", "nbd://h:x", "nbd://h/%ff", "nbd://h/%00", "nbd://h/" + strings.Repeat("x", 4097), "nbd://h/x#f"} {
		if got, err := ParseURI(uri); err == nil {
			t.Errorf("%s: %+v", uri, got)
		}
	}
}
