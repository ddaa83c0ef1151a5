//go:build unix

package testkit

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestHeedSignals: of two tests that heed signals, one ends; programs that the other one
// starts are still ended by them.
func TestHeedSignals(t *testing.T) {
	const child = "COWL_HEED_SIGNALS"
	if os.Getenv(child) == "" {
		cmd := exec.Command("sh", "-c", `trap "" HUP INT; exec "$0" -test.run=^TestHeedSignals$ -test.v`, os.Args[0])
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestHeedSignals") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	for _, name := range []string{"HUP", "INT"} {
		survives := func() bool {
			out, _ := exec.Command("sh", "-c", "kill -"+name+" $$; echo alive").Output()
			return string(out) == "alive\n"
		}
		if !survives() {
			t.Fatalf("%s is not ignored", name)
		}
		first, second := HeedSignals(), HeedSignals()
		first()
		if survives() {
			t.Errorf("%s is ignored while a test heeds it", name)
		}
		if second(); !survives() {
			t.Errorf("%s is not ignored again", name)
		}
	}
}
