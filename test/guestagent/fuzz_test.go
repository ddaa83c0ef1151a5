//go:build linux

package guestagent

import (
	"bytes"
	"os/exec"
	"testing"
)

// FuzzBoth feeds the same bytes to both agents, which must answer the same. They allow
// no command that touches the machine.
func FuzzBoth(f *testing.F) {
	for _, r := range odd {
		f.Add([]byte(r))
	}
	if _, err := exec.LookPath("qemu-ga"); err != nil {
		f.Skip("qemu-ga is not installed")
	}
	their, our := start(f, theirs(f), "-a", "guest-sync,guest-sync-delimited,guest-ping"), start(f, ours, "-a", "guest-sync,guest-sync-delimited,guest-ping")
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		their.t, our.t = t, t
		want, got := their.ask(string(data), 0), our.ask(string(data), 0)
		if !bytes.Equal([]byte(got), []byte(want)) {
			t.Errorf("%q:\n got %.1000q\nwant %.1000q", data, got, want)
		}
	})
}
