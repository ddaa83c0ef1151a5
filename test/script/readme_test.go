package script

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestReadme runs the commands of the README, in order, in one shell session that stops at
// the first failure.
func TestReadme(t *testing.T) { runBlocks(t, "../../README.md") }

// TestTour runs those of the tour.
func TestTour(t *testing.T) { runBlocks(t, "../../docs/tour.md") }

// TestGuide runs those of the user's guide.
func TestGuide(t *testing.T) { runBlocks(t, "../../docs/guide.md") }

// runBlocks runs the blocks of a document that are marked as sh.
func runBlocks(t *testing.T, name string) {
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for i, part := range strings.Split(string(text), "\n```sh\n") {
		if i == 0 {
			continue
		}
		block, _, ok := strings.Cut(part, "\n```\n")
		if !ok {
			t.Fatalf("block %d of %s does not end", i, name)
		}
		script.WriteString(block + "\n")
	}
	if strings.Count(script.String(), "cowl ") < 5 {
		t.Fatalf("the commands of %s are not where they were", name)
	}
	bin := t.TempDir()
	if err := testkit.Build(filepath.Join(bin, "cowl"), "./cmd/cowl"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-euxo", "pipefail", "-c", script.String())
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		killServer(filepath.Join(cmd.Dir, "nbd.pid"))
		t.Fatalf("%v\n%s", err, out)
	}
}

// killServer ends the server that blocks which failed may have left.
func killServer(pidFile string) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return
	}
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill()
	}
}
