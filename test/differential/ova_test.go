package differential

import (
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
	do(1, cowl, "info", "a.ova:3")
	do(1, tools.ours, "info", "a.ova:1") // QEMU's name has QEMU's names of files
}
