package testkit

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Tool returns the path of a program and skips the test where it is missing.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

// Installed reports whether a program is there.
func Installed(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// Root skips the test unless it may mount file systems.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs to run as root")
	}
}

// Run runs a program that must succeed and returns its standard output. The test
// is skipped where the program is missing.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, errOut, code := Try(t, name, args...)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", name, strings.Join(args, " "), code, out, errOut)
	}
	return out
}

// Try runs a program and returns what it prints and its exit code.
func Try(t testing.TB, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(Tool(t, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", name, err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// Mount makes a file system of the given type and size (as truncate takes it:
// "512M") in a file, mounts it and returns its directory; the test's end undoes
// it. It skips the test where that is impossible. "tmpfs" needs no file.
func Mount(t testing.TB, fstype, size string) string {
	t.Helper()
	Root(t)
	dir := filepath.Join(t.TempDir(), fstype)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"-t", "tmpfs", "-o", "size=" + size, "tmpfs", dir}
	if fstype != "tmpfs" {
		img := filepath.Join(t.TempDir(), fstype+".img")
		Run(t, "truncate", "-s", size, img)
		flags := []string{"-q", img}
		if fstype == "ext4" {
			flags = []string{"-q", "-F", img}
		}
		Run(t, "mkfs."+fstype, flags...)
		args = []string{"-t", fstype, "-o", "loop", img, dir}
	}
	if _, errOut, code := Try(t, "mount", args...); code != 0 {
		t.Skipf("cannot mount %s here: %s", fstype, strings.TrimSpace(errOut))
	}
	t.Cleanup(func() {
		if _, errOut, code := Try(t, "umount", dir); code != 0 {
			t.Errorf("umount: %s", errOut)
		}
	})
	return dir
}

// LoopDevice attaches a file to a loop device for the time of the test.
func LoopDevice(t testing.TB, path string, args ...string) string {
	t.Helper()
	Root(t)
	out, errOut, code := Try(t, "losetup", append([]string{"-f", "--show", path}, args...)...)
	if code != 0 {
		t.Skipf("cannot make a loop device here: %s", strings.TrimSpace(errOut))
	}
	dev := strings.TrimSpace(out)
	t.Cleanup(func() { Try(t, "losetup", "-d", dev) })
	return dev
}
