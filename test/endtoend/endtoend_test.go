// Package endtoend takes real disks through the program: a file system of real
// files, real guests, full file systems, killed processes.
package endtoend

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// program is our binary, built by TestMain, under its own name and as qemu-img.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cowl-endtoend")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "cowl")
	if err := testkit.Build(program, "./cmd/cowl"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// cowl runs our program; it must succeed.
func cowl(t *testing.T, args ...string) string {
	t.Helper()
	return testkit.Run(t, program, args...)
}

// goroot is the folder of the Go tools, whose sources make a real tree of files.
func goroot(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(testkit.Run(t, "go", "env", "GOROOT"))
}

// makeExt4 makes a disk image with a file system that holds the files of tree.
func makeExt4(t *testing.T, dir, tree, size string) string {
	t.Helper()
	disk := filepath.Join(dir, "disk.raw")
	testkit.Run(t, testkit.Tool(t, "mkfs.ext4"), "-q", "-F", "-d", tree, disk, size)
	return disk
}

// TestRealDisk takes a real disk raw → qcow2 → compressed (zlib, zstd) → raw. The
// original's check and comparison hold at each step.
func TestRealDisk(t *testing.T) {
	original := testkit.Tool(t, "qemu-img")
	dir := t.TempDir()
	disk := makeExt4(t, dir, filepath.Join(goroot(t), "src"), "512M")
	path := func(name string) string { return filepath.Join(dir, name) }
	prev := disk
	for _, step := range []struct {
		name string
		args []string
	}{
		{"plain.qcow2", []string{"-O", "qcow2"}},
		{"zlib.qcow2", []string{"-O", "qcow2", "-c"}},
		{"zstd.qcow2", []string{"-O", "qcow2", "-c", "-o", "compression_type=zstd"}},
		{"back.raw", []string{"-O", "raw"}},
	} {
		next := path(step.name)
		cowl(t, append(append([]string{"convert"}, step.args...), prev, next)...)
		if filepath.Ext(next) == ".qcow2" {
			testkit.Run(t, original, "check", "-f", "qcow2", next)
			cowl(t, "check", "-f", "qcow2", next)
		}
		testkit.Run(t, original, "compare", disk, next)
		prev = next
	}
	testkit.Run(t, "cmp", disk, prev)
	testkit.Run(t, testkit.Tool(t, "e2fsck"), "-fn", prev)
}
