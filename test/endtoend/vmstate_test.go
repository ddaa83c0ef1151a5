package endtoend

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/file"
)

// monitor runs a machine without an operating system and gives its monitor
// commands. It returns what the monitor printed.
func monitor(t *testing.T, disk string, args []string, commands ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testkit.Tool(t, "qemu-system-x86_64"), append([]string{"-M", "q35", "-accel", "tcg", "-m", "32",
		"-display", "none", "-S", "-monitor", "stdio", "-nodefaults", "-drive", "if=virtio,format=qcow2,file=" + disk}, args...)...)
	cmd.WaitDelay = time.Minute
	cmd.Stdin = strings.NewReader(strings.Join(append(commands, "quit"), "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "Error") {
		t.Fatalf("qemu-system-x86_64: %v\n%s", err, out)
	}
	return string(out)
}

// TestSavedMachine saves a machine into an image and lets our snapshot operations
// work around it: it must load again.
func TestSavedMachine(t *testing.T) {
	testkit.Tool(t, "qemu-system-x86_64")
	ctx := t.Context()
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4M", disk)
	monitor(t, disk, nil, "savevm saved")
	state := func() []byte {
		t.Helper()
		out := testkit.Run(t, "qemu-img", "snapshot", "-l", disk)
		if !strings.Contains(out, "saved") || strings.Contains(out, "saved                 0 B") {
			t.Fatalf("no machine is saved:\n%s", out)
		}
		return []byte(strings.Split(out, "\n")[2])
	}
	before := state()

	img, err := block.Open(ctx, block.NewRegistry(qcow2.New(), file.New()), block.Source{Filename: disk, Format: "qcow2"},
		block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	write := func(b byte) {
		t.Helper()
		p := make([]byte, 3<<20)
		for i := range p {
			p[i] = b
		}
		if _, err := img.WriteAt(ctx, p, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	write(2)
	two, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "two"})
	if err != nil {
		t.Fatal(err)
	}
	write(3)
	three, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "three"})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{two, "saved", three} {
		if err := img.Snapshots().Apply(ctx, id); err != nil {
			t.Fatal(err)
		}
		write(4)
	}
	if err := img.Snapshots().Delete(ctx, two, "two"); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if after := state(); string(after) != string(before) {
		t.Fatalf("listed as\n%s\nand before as\n%s", after, before)
	}
	testkit.Run(t, "qemu-img", "check", "-f", "qcow2", disk)
	// -loadvm reads the whole state back; a flaw in it is fatal.
	if out := monitor(t, disk, []string{"-loadvm", "saved"}, "info status"); !strings.Contains(out, "paused") {
		t.Fatalf("status of the machine:\n%s", out)
	}
	testkit.Run(t, "qemu-img", "snapshot", "-a", "saved", disk)
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "read -P 1 0 4M", disk)
	testkit.Run(t, "qemu-img", "check", "-f", "qcow2", disk)
}
