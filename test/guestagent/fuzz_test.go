//go:build linux

package guestagent

import (
	"bytes"
	"os/exec"
	"testing"

	agentlib "github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/linux"
)

// FuzzBoth feeds the same bytes to both agents, which must answer the same. They allow
// no command that touches the machine. Ours is in this process, so that the engine sees
// what its reader does with the bytes. Timing changes the coverage of the rest, which the
// engine takes for something new to make smaller: run it with -fuzzminimizetime 1x.
func FuzzBoth(f *testing.F) {
	for _, r := range odd {
		f.Add([]byte(r))
	}
	if _, err := exec.LookPath("qemu-ga"); err != nil {
		f.Skip("qemu-ga is not installed")
	}
	their := start(f, theirs(f), "-a", "guest-sync,guest-sync-delimited,guest-ping")
	system := linux.New()
	agent := agentlib.NewAgent(agentlib.Config{Commands: system.Commands(), Freezer: system,
		Policy: agentlib.Policy{Allow: []string{"guest-sync", "guest-sync-delimited", "guest-ping"}}})
	var out bytes.Buffer
	session := agent.NewSession(f.Context(), &out)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		their.t = t
		want := their.ask(string(data), 0)
		out.Reset()
		for _, p := range [][]byte{data, []byte(resync)} {
			if err := session.Feed(p); err != nil {
				t.Fatal(err)
			}
		}
		if got := out.String(); got != want {
			t.Errorf("%q:\n got %.1000q\nwant %.1000q", data, got, want)
		}
	})
}
