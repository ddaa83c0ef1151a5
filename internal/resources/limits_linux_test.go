package resources

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// childEnv holds the address-space limit of a test binary that TestApply starts.
const childEnv = "COWL_TEST_ADDRESS_SPACE"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		Apply()
		fmt.Println(addressSpaceLeft(), debug.SetMemoryLimit(-1), runtime.GOMAXPROCS(0), Claim(1<<30) != nil)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestApply(t *testing.T) {
	if testkit.Race {
		t.Skip("the race detector needs more address space")
	}
	prlimit, err := exec.LookPath("prlimit")
	if err != nil {
		t.Skip("prlimit is not installed")
	}
	cmd := exec.Command(prlimit, "--as=1073741824", os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1", "GOMAXPROCS=64", "GOMEMLIMIT=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var left, limit int64
	var procs int
	var refused bool
	if _, err := fmt.Sscan(string(out), &left, &limit, &procs, &refused); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	if left <= 0 || left >= 1<<30 || limit >= 1<<30 || procs >= 64 || !refused {
		t.Errorf("%d bytes left, heap limit %d, %d processors, 1 GiB refused: %t", left, limit, procs, refused)
	}
}

func TestGroups(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a/memory.max", "1000000\n")
	write("a/memory.current", "900000\n")
	write("a/memory.stat", "anon 1\ninactive_file 200000\nactive_file 100000\n")
	write("a/b/memory.max", "max\n")
	write("a/b/c/memory.max", "500000\n")
	write("a/b/c/memory.current", "50000\n")
	dirs := limitedGroups(root, []byte("1:name=systemd:/x\n0::/a/b/c\n"))
	want := []string{filepath.Join(root, "a/b/c"), filepath.Join(root, "a")}
	if !slices.Equal(dirs, want) {
		t.Errorf("limited by %v, want %v", dirs, want)
	}
	if got := leftOf(dirs); got != 400000 {
		t.Errorf("%d bytes left, want 400000", got)
	}
	if got := limitedGroups(root, []byte(strings.Repeat("3:cpu:/\n", 3))); got != nil {
		t.Errorf("without a group: %v", got)
	}
	if got := leftOf(nil); got != math.MaxInt64 {
		t.Errorf("without a limit: %d", got)
	}
}

func TestCanReserve(t *testing.T) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &r); err != nil {
		t.Fatal(err)
	}
	if r.Cur > math.MaxInt64 && !canReserve(1<<30) {
		t.Error("1 GiB of address space cannot be reserved")
	}
	if canReserve(1<<62) || canReserve(0) || canReserve(-1) {
		t.Error("what no process can have is reserved")
	}
}
