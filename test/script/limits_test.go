//go:build linux

package script

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestAddressSpace runs commands under a limit of the address space, as services that
// call qemu-img set it, with more processors than the machine has.
func TestAddressSpace(t *testing.T) {
	dir := t.TempDir()
	// The program itself: that of the tests is larger, and takes more.
	cowl := filepath.Join(t.TempDir(), "cowl")
	if err := testkit.Build(cowl, "./cmd/cowl"); err != nil {
		t.Fatal(err)
	}
	// What a compressor makes nothing of, and something it does.
	disk := make([]byte, 32<<20)
	for i, x := 0, uint32(1); i < len(disk); i++ {
		if x = x*1664525 + 1013904223; i>>20%2 == 0 {
			disk[i] = byte(x >> 24)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "disk.raw"), disk, 0o644); err != nil {
		t.Fatal(err)
	}
	const convert = `"$COWL" convert -q -f raw -O qcow2 -m 16 `
	for _, procs := range []string{"16", "64"} {
		for _, c := range []struct{ kib, command string }{
			{"851968", `"$COWL" create -q -f qcow2 new.qcow2 1T`},
			{"851968", `"$COWL" info new.qcow2 >/dev/null`},
			{"1048576", convert + "disk.raw out.qcow2"},
			{"1048576", convert + "-c -o cluster_size=2M disk.raw out.qcow2"},
			{"1048576", convert + "-c -o cluster_size=2M,compression_type=zstd disk.raw out.qcow2"},
			{"1048576", `"$COWL" check -q out.qcow2`},
			{"1048576", `"$COWL" compare -q -f raw disk.raw out.qcow2`},
			{"1048576", `"$COWL" convert -q -m 16 -O raw out.qcow2 out.raw`},
			{"1048576", `"$COWL" bench -w -f qcow2 -c 1000 -s 64k new.qcow2 >/dev/null`},
		} {
			_, stderr, err := sh(t, dir, "ulimit -v "+c.kib+"; "+c.command, "GOMAXPROCS="+procs, "COWL="+cowl)
			if err != nil {
				t.Errorf("%s processors, %s KiB: %s: %v\n%.2000s", procs, c.kib, c.command, err, stderr)
			}
		}
	}
	// 768 MiB is enough where the runtime does not begin its heap near the end of an
	// arena of 64 MiB, which it does by chance, and releases are built not to do.
	for _, command := range []string{`"$COWL" create -q -f qcow2 small.qcow2 1T`, `"$COWL" info small.qcow2 >/dev/null`} {
		var err error
		for range 10 {
			if _, _, err = sh(t, dir, "ulimit -v 786432; "+command, "GOMAXPROCS=64", "COWL="+cowl); err == nil {
				break
			}
		}
		if err != nil {
			t.Errorf("768 MiB: %s: ten times: %v", command, err)
		}
	}
	// What does not fit is refused in one line.
	_, stderr, err := sh(t, dir, `ulimit -v 1048576; "$COWL" bench -w -f qcow2 -d 512 -s 1M new.qcow2`, "COWL="+cowl)
	if err == nil || !strings.HasPrefix(stderr, "cowl: ") || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "not enough memory") {
		t.Errorf("512 MiB of buffers: %v, %.2000q", err, stderr)
	}
}
