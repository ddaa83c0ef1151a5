package differential

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestIncusKilledAtOnce kills cowl while the program that makes images reads its
// definition: nothing of it goes on.
func TestIncusKilledAtOnce(t *testing.T) {
	program, dir := packer(t)
	fifo := filepath.Join(dir, "fifo.yaml")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "validate", fifo)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0) // once it reads
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := w.WriteString("image: {}\n"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("somebody still reads the definition: %v", err)
	}
}
