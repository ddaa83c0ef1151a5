package differential

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestNBDVerbose holds that -v says what QEMU says about clients that come, read
// and go, or speak something else: test suites compare the output.
func TestNBDVerbose(t *testing.T) {
	tools := needCLI(t)
	theirs, err := exec.LookPath("qemu-nbd")
	if err != nil {
		t.Skip("qemu-nbd is not installed")
	}
	ours := filepath.Join(t.TempDir(), "qemu-nbd")
	if err := os.Symlink(tools.ours, ours); err != nil {
		t.Fatal(err)
	}
	got, want := verbose(t, tools, ours), verbose(t, tools, theirs)
	if got != want {
		t.Errorf("-v prints\n%q\nwant\n%q", got, want)
	}
}

// verbose returns what a server prints about two clients.
func verbose(t *testing.T, tools cliBinaries, server string) string {
	t.Helper()
	dir := t.TempDir()
	sock := filepath.Join(dir, "s")
	if err := os.WriteFile(filepath.Join(dir, "disk.raw"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(server, "-v", "-t", "-e", "4", "-f", "raw", "-k", sock, "disk.raw")
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := false
	defer func() {
		if !done {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	// The client waits until there is a server.
	image := "driver=nbd,server.type=unix,server.path=" + sock + ",open-timeout=20"
	if res := runIn(t, dir, tools.io, "--image-opts", "-c", "read 0 64k", "-c", "write 4k 4k", "-c", "flush", image); res.code != 0 {
		t.Fatalf("%+v", res)
	}
	if res := runIn(t, dir, tools.img, "info", "--image-opts", image); res.code != 0 {
		t.Fatalf("%+v", res)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	done = true
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v", server, err)
	}
	return strings.ReplaceAll(out.String(), dir, "DIR")
}
