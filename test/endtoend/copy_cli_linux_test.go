package endtoend

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestFilesWithoutLength: what has content and a length of 0 is never taken for empty.
func TestFilesWithoutLength(t *testing.T) {
	const source = "/proc/self/status"
	if st, err := os.Stat(source); err != nil || st.Size() != 0 {
		t.Skip("there is no file of length 0 with content here")
	}
	out := filepath.Join(t.TempDir(), "out")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"convert", "-O", "qcow2", source, out}, {"convert", "-f", "raw", "-n", source, empty},
		{"dd", "if=" + source, "of=" + out}, {"compare", "-f", "raw", "-F", "raw", source, empty},
		{"compare", "-f", "raw", "-F", "raw", empty, source}, {"checksum", source}, {"measure", "-O", "qcow2", source},
	} {
		_, stderr, code := try(t, args...)
		if code == 0 || !strings.Contains(stderr, "length of 0") {
			t.Errorf("%q: exit code %d, %s", args, code, stderr)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%q left its target", args)
		}
	}
}

// TestConvertMemory holds the peak of memory of 16 encoders of large clusters under
// 128 MiB, and lets many processors work under 1 GiB of address space.
func TestConvertMemory(t *testing.T) {
	prlimit := testkit.Tool(t, "prlimit")
	dir := t.TempDir()
	src, out := filepath.Join(dir, "src"), filepath.Join(dir, "out")
	randomFile(t, src, 96<<20)
	args := []string{"convert", "-c", "-m", "16", "-O", "qcow2", "-o", "cluster_size=2M,compression_type=zstd", src, out}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=16")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, msg)
	}
	if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && ru.Maxrss >= 128<<10 {
		t.Errorf("%d KiB at the peak", ru.Maxrss)
	}
	for _, args := range [][]string{args, {"compare", src, out}, {"check", out}, {"measure", "-O", "qcow2", out}} {
		cmd := exec.Command(prlimit, append([]string{"--as=" + strconv.Itoa(1<<30), program}, args...)...)
		cmd.Env = append(os.Environ(), "GOMAXPROCS=64")
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%q: %v\n%.300s", args, err, msg)
		}
	}
}
