//go:build linux

package guestagent

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestPeer runs the test that QEMU has for its agent against ours. COWL_QEMU_SOURCE
// names a folder with QEMU's source.
func TestPeer(t *testing.T) {
	source := os.Getenv("COWL_QEMU_SOURCE")
	if source == "" {
		t.Skip("COWL_QEMU_SOURCE does not name QEMU's source")
	}
	testkit.Tool(t, "cc")
	out, err := exec.CommandContext(t.Context(), "./test-qga.sh", source, ours).CombinedOutput()
	if err != nil || strings.Count(string(out), "\nok ") < 28 || strings.Contains(string(out), "not ok") {
		t.Errorf("%v\n%s", err, out)
	}
}
