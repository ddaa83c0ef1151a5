package testkit

import (
	"os/exec"
	"syscall"
	"testing"
)

// TestStop stops a process that is always busy, lets it go on, and stops it again.
func TestStop(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if stopped(t, cmd.Process.Pid) {
		t.Fatal("stopped before it was asked to")
	}
	for range 10 {
		Stop(t, cmd.Process)
		if !stopped(t, cmd.Process.Pid) {
			t.Fatal("it runs")
		}
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
}
