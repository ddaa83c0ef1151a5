//go:build unix

package differential

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestNBDMapKinds maps exports whose servers tell all four kinds of range apart:
// data, zeroes with room, holes that are zeroes, and holes that may not be.
func TestNBDMapKinds(t *testing.T) {
	testkit.Tool(t, "qemu-img")
	for name, start := range map[string]func(t *testing.T) (uri string){
		"nbdkit": func(t *testing.T) string {
			kit := testkit.Tool(t, "nbdkit")
			sock := filepath.Join(t.TempDir(), "s")
			pid := sock + ".pid"
			extents := `printf '0 65536 hole\n65536 65536 zero\n131072 131072 hole,zero\n262144 65536\n327680 65536 zero\n393216 131072 hole\n'`
			cmd := exec.Command(kit, "-f", "-U", sock, "-P", pid, "eval", "get_size=echo 524288", `pread=dd if=/dev/zero count=$3 iflag=count_bytes bs=64k status=none`,
				"can_extents=exit 0", "extents="+extents)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				cmd.Process.Kill()
				cmd.Wait()
			})
			for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
				if _, err := os.Stat(pid); err == nil {
					break
				}
				if time.Now().After(end) {
					t.Fatal("nbdkit does not start")
				}
			}
			return "nbd+unix:///?socket=" + sock
		},
		"preallocated": func(t *testing.T) string {
			theirs, _ := nbdPrograms(t)
			dir := t.TempDir()
			image := filepath.Join(dir, "i.qcow2")
			testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image, "1M")
			testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 1 128k 64k", "-c", "write -q -z -u 512k 128k", "-c", "write -q -z 768k 64k", image)
			return "nbd+unix:///?socket=" + startNBD(t, dir, theirs, 1, "-r", "-t", "-e", "9", "-f", "qcow2", "i.qcow2").sock
		},
		"preallocated, ours": func(t *testing.T) string {
			_, ours := nbdPrograms(t)
			dir := t.TempDir()
			image := filepath.Join(dir, "i.qcow2")
			testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image, "1M")
			testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 1 128k 64k", "-c", "write -q -z -u 512k 128k", image)
			return "nbd+unix:///?socket=" + startNBD(t, dir, ours, 1, "-r", "-t", "-e", "9", "-f", "qcow2", "i.qcow2").sock
		},
	} {
		t.Run(name, func(t *testing.T) {
			uri := start(t)
			sameCommand(t, "map", "--output=json", "-f", "raw", uri)
			sameCommand(t, "map", "-f", "raw", uri)
			// What may not be zero is copied.
			var sizes [2]int64
			for i, program := range []func(*testing.T, ...string) string{runOriginal, ours} {
				out := filepath.Join(t.TempDir(), fmt.Sprint(i))
				program(t, "convert", "-f", "raw", "-O", "qcow2", uri, out)
				sizes[i] = allocated(t, out)
				sameCommand(t, "compare", "-f", "raw", "-F", "qcow2", uri, out)
			}
			if sizes[0] != sizes[1] {
				t.Errorf("a copy takes %d bytes, QEMU's %d", sizes[1], sizes[0])
			}
		})
	}
}

// TestNBDSizes: an export keeps its size, and says so where that is not what was
// asked for.
func TestNBDSizes(t *testing.T) {
	theirs, _ := nbdPrograms(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "disk"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	uri := "nbd+unix:///?socket=" + startNBD(t, dir, theirs, 1, "-t", "-e", "9", "-f", "raw", "disk").sock
	for _, args := range [][]string{
		{"resize", "-f", "raw", uri, "2M"},
		{"resize", "-f", "raw", uri, "1M"},
		{"resize", "-f", "raw", "--shrink", uri, "512k"},
		{"create", "-q", "-f", "raw", uri, "2M"},
		{"create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", uri, "1M"},
		{"create", "-q", "-f", "qcow2", uri, "64k"},
		{"resize", "-q", "-f", "qcow2", uri, "128k"},
	} {
		stdout, stderr, code := testkit.Try(t, "qemu-img", args...)
		got := ourProgram(t, args...)
		// Ours also says what became of the target.
		if got.code != code || got.stdout != stdout || !strings.HasPrefix(got.stderr, strings.TrimSuffix(stderr, "\n")) || stderr == "" && got.stderr != "" {
			t.Errorf("%s: exit code %d\n%s%s\nwant %d\n%s%s", args, got.code, got.stdout, got.stderr, code, stdout, stderr)
		}
	}
}
