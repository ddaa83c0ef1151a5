package file_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/protocol/file"
)

// loopDevice makes a block device of zeroes, until the test ends.
func loopDevice(t testing.TB, size int64) string {
	t.Helper()
	backing := filepath.Join(t.TempDir(), "backing")
	f, err := os.Create(backing)
	if err != nil {
		t.Fatal(err)
	}
	err = f.Truncate(size)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--show", "-f", backing).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
	return dev
}

func TestConformanceOfDevices(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, for loop devices")
	}
	if _, err := exec.LookPath("losetup"); err != nil {
		t.Skip("losetup is not installed")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("the system has no loop devices")
	}
	drivertest.Run(t, drivertest.Harness{Driver: file.NewHostDevice(), Make: loopDevice, Size: 4 << 20})
}
