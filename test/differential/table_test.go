package differential

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// eachLine runs a parallel subtest for every line of a table of sessions. Lines
// that are empty or begin with # count for nothing, none may stand twice, and what
// differences lists must be there. They are done when it returns.
func eachLine(t *testing.T, table string, differences map[string]string, run func(t *testing.T, line string)) {
	t.Helper()
	seen := map[string]bool{}
	t.Run("lines", func(t *testing.T) {
		for line := range strings.Lines(table) {
			if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if seen[line] {
				t.Errorf("%q stands twice in the table", line)
			}
			seen[line] = true
			t.Run(line[:min(len(line), 100)], func(t *testing.T) {
				t.Parallel()
				run(t, line)
			})
		}
	})
	for line := range differences {
		if !seen[line] {
			t.Errorf("intended difference %q is not in the table", line)
		}
	}
}

// scriptDir makes the files that sessions work on: script runs in a new folder, with
// the programs in its environment (IMG and IO QEMU's, OURS).
func scriptDir(t *testing.T, tools cliBinaries, script string) string {
	t.Helper()
	return scriptIn(t, t.TempDir(), tools, script)
}

// scriptIn is scriptDir for a folder that is there.
func scriptIn(t *testing.T, dir string, tools cliBinaries, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "IMG="+tools.img, "IO="+tools.io, "OURS="+tools.ours)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("fixtures: %v\n%s", err, out)
	}
	return dir
}
