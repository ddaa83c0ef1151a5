package differential

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// ownName returns the program under its own name.
func ownName(t *testing.T, tools cliBinaries, dir string) string {
	t.Helper()
	path, err := filepath.Abs(tools.ours)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "cowl")
	if err := os.Symlink(path, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestOVA: tar and 7zz read what is packed, qemu-img reads the disks, and so does ours in place.
func TestOVA(t *testing.T) {
	tools := needCLI(t)
	testkit.Tool(t, "7zz")
	dir := t.TempDir()
	cowl := ownName(t, tools, dir)
	r := testkit.Rand(4)
	for i, size := range []int{3<<20 + 512, 1 << 20} {
		disk := make([]byte, size)
		testkit.FillDisk(r, disk)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.raw", i+1)), disk, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do := func(want int, program string, args ...string) string {
		t.Helper()
		o := runIn(t, dir, program, args...)
		if o.code != want {
			t.Fatalf("%s %q: exit code %d, %s%s", filepath.Base(program), args, o.code, o.stdout, o.stderr)
		}
		return o.stdout
	}
	do(0, tools.img, "convert", "-f", "raw", "-O", "qcow2", "1.raw", "1.qcow2")
	do(0, cowl, "ova", "--pack", "-o", "a.ova", "--name", "shop", "1.qcow2", "2.raw")
	do(1, cowl, "ova", "--pack", "-o", "a.ova", "1.qcow2")
	for _, args := range [][]string{{"tar", "xf", "a.ova"}, {"7zz", "t", "a.ova"}, {"7zz", "t", "shop-disk1.vmdk"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v, %s", args, err, out)
		}
	}
	for i := 1; i <= 2; i++ {
		disk, vmdk := fmt.Sprintf("%d.raw", i), fmt.Sprintf("shop-disk%d.vmdk", i)
		do(0, tools.img, "compare", "-f", "raw", "-F", "vmdk", disk, vmdk)
		for _, name := range []string{fmt.Sprint(i), vmdk} {
			do(0, cowl, "compare", "-f", "raw", disk, "a.ova:"+name)
		}
	}
	if out := do(0, cowl, "ova", "--check", "a.ova"); strings.Count(out, ": OK\n") != 3 {
		t.Error(out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "a.ova"))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-4096]++
	if err := os.WriteFile(filepath.Join(dir, "b.ova"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := do(2, cowl, "ova", "--check", "b.ova"); !strings.Contains(out, "shop-disk2.vmdk: its digest") {
		t.Error(out)
	}
	// The same from a pipe, in one pass; also of the disk as QEMU makes it, whose stream has no end.
	do(0, tools.img, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "2.raw", "shop-disk2.vmdk")
	tar := exec.Command("tar", "cf", "theirs.ova", "--format=ustar", "shop.ovf", "shop-disk1.vmdk", "shop-disk2.vmdk")
	tar.Dir = dir
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	piped := func(want int, archive string, args ...string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, archive))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(cowl, args...)
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(b)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Fatalf("%q: exit code %d, %s", args, code, out)
		}
		return string(out)
	}
	if out := piped(0, "a.ova", "ova", "-"); out != do(0, cowl, "ova", "a.ova") {
		t.Error(out)
	}
	if out := piped(2, "b.ova", "ova", "--check", "-"); out != do(2, cowl, "ova", "--check", "b.ova") {
		t.Error(out)
	}
	for _, archive := range []string{"a.ova", "theirs.ova"} {
		for i := 1; i <= 2; i++ {
			for _, format := range []string{"qcow2", "raw", "vmdk -o subformat=streamOptimized"} {
				out := fmt.Sprintf("out%d.%.4s", i, format)
				piped(0, archive, append(append([]string{"convert", "-O"}, strings.Fields(format)...), fmt.Sprintf("/dev/stdin:%d", i), out)...)
				do(0, tools.img, "compare", "-f", "raw", fmt.Sprintf("%d.raw", i), out)
			}
		}
	}
	piped(1, "a.ova", "convert", "/dev/stdin:3", "none")
	piped(1, "a.ova", "convert", "-f", "raw", "/dev/stdin:1", "none")
	piped(1, "1.raw", "convert", "/dev/stdin:1", "none")
	if _, err := os.Stat(filepath.Join(dir, "none")); err == nil {
		t.Error("a target is left of an appliance that cannot be read")
	}
	do(1, cowl, "info", "a.ova:3")
	do(1, tools.ours, "info", "a.ova:1") // QEMU's name has QEMU's names of files
}
