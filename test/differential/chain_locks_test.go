package differential

import (
	"runtime"
	"strings"
	"testing"
)

// TestChainLocks runs commands on chains while QEMU has a layer open.
func TestChainLocks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("image locks are those of Linux")
	}
	tools := needCLI(t)
	base := chainFixtures(t, tools)
	holders := []string{"-f qcow2 l2.qcow2", "-f qcow2 -r l2.qcow2", "-f qcow2 l1.qcow2", "-f qcow2 -r l1.qcow2",
		"-f raw base.raw", "-f raw -r base.raw", "-f qcow2 l3.qcow2", "-f raw other.raw", "-f raw -r other.raw"}
	lines := []string{"commit l2.qcow2", "commit -d l2.qcow2", "commit -b base.raw l2.qcow2", "commit l1.qcow2",
		"rebase -b other.raw -F raw l2.qcow2", "rebase -U -b other.raw -F raw l2.qcow2", "rebase -u -b other.raw -F raw l2.qcow2",
		"rebase -b base.raw -F raw l2.qcow2", "amend -o compat=0.10 l2.qcow2", "amend -o size=3M l2.qcow2"}
	for _, holder := range holders {
		for _, line := range lines {
			t.Run(holder+" "+line, func(t *testing.T) {
				t.Parallel()
				left, right := copyTree(t, base), copyTree(t, base)
				holdOpen(t, tools, left, strings.Fields(holder)...)
				holdOpen(t, tools, right, strings.Fields(holder)...)
				want := runIn(t, left, tools.img, words(line)...)
				got := runIn(t, right, tools.ours, words(line)...)
				if got.code != want.code || normal(got.stdout) != normal(want.stdout) || normal(got.stderr) != normal(want.stderr) {
					t.Errorf("exit code %d\n%s%s\nwant %d\n%s%s", got.code, got.stdout, got.stderr, want.code, want.stdout, want.stderr)
				}
			})
		}
	}
}
