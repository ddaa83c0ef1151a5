//go:build linux

package guestagent

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// setupSource is where the setup of the tests puts QEMU's source.
const setupSource = "/var/cache/cowl-test/qemu"

// TestPeer runs the test that QEMU has for its agent against ours. COWL_QEMU_SOURCE
// names a folder with QEMU's source in the place of the one from the setup.
func TestPeer(t *testing.T) {
	source := os.Getenv("COWL_QEMU_SOURCE")
	if source == "" {
		source = setupSource
	}
	if _, err := os.Stat(source); err != nil {
		t.Skipf("QEMU's source is not there, ./test.sh setup fetches it: %v", err)
	}
	testkit.Tool(t, "cc")
	out, err := exec.CommandContext(t.Context(), "./test-qga.sh", source, ours).CombinedOutput()
	if err != nil || strings.Count(string(out), "\nok ") < 28 || strings.Contains(string(out), "not ok") {
		t.Errorf("%v\n%s", err, out)
	}
}
