package differential

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// lockLines are commands of every kind; HELD stands for the image that somebody
// has open, FMT for its format.
const lockLines = `info HELD
info -U HELD
info -f FMT --output=json HELD
map -f FMT HELD
map -U -f FMT HELD
check -f FMT HELD
check -U -f FMT HELD
check -f FMT -r leaks HELD
compare -f FMT -F FMT HELD HELD
compare -U -f FMT -F FMT HELD HELD
measure -f FMT -O qcow2 HELD
measure -U -f FMT -O qcow2 HELD
resize -f FMT HELD 20M
resize --shrink -f FMT HELD 512k
create -f FMT HELD 1M
create -f qcow2 -b HELD -F FMT new
convert -f FMT HELD out
convert -U -f FMT HELD out
convert -f raw -O FMT free.raw HELD
convert -n -f raw -O FMT free.raw HELD
dd -f FMT if=HELD of=out
dd -U -f FMT if=HELD of=out
dd -O FMT if=free.raw of=HELD
bench -f FMT -c 1 HELD
bench -U -f FMT -c 1 HELD
bench -w -f FMT -c 1 HELD
bench --image-opts -c 1 driver=FMT,file.filename=HELD,file.locking=off`

// changes says whether a line would change an image if nobody stopped it.
func changes(line string) bool {
	for _, w := range []string{"resize", "create -f", "-O FMT", "bench -w", "-r leaks"} {
		if strings.Contains(line, w) && !strings.Contains(line, "new") {
			return true
		}
	}
	return false
}

func lockFixture(t *testing.T) string {
	return inDir(t, `
qemu-img create -q -f raw free.raw 1M
qemu-img create -q -f raw held.raw 16M
qemu-img create -q -f qcow2 held.qcow2 16M
qemu-io -f qcow2 -c 'write -q -P 1 0 128k' held.qcow2`)
}

// TestLocksOfGuests runs every command while a guest has the images open.
func TestLocksOfGuests(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("image locks are those of Linux")
	}
	emulator := testkit.Tool(t, "qemu-system-x86_64")
	tools := needCLI(t)
	for _, format := range []string{"raw", "qcow2"} {
		for _, mode := range []string{"read-only=off", "read-only=on"} {
			t.Run(format+" "+mode, func(t *testing.T) {
				dir := lockFixture(t)
				held := "held." + format
				holdGuest(t, emulator, dir, "driver="+format+",node-name=d,"+mode+",file.driver=file,file.filename="+held)
				for _, line := range strings.Split(lockLines, "\n") {
					line := strings.NewReplacer("HELD", held, "FMT", format).Replace(line)
					sameIn(t, tools, dir, words(line)...)
				}
			})
		}
	}
}

// holdGuest starts a guest that does not run and has a disk open. It ends with
// the test.
func holdGuest(t *testing.T, emulator, dir, disk string) {
	t.Helper()
	readOnly := strings.Contains(disk, "read-only=on")
	device := "virtio-blk-pci,drive=d"
	if readOnly {
		device = "virtio-scsi-pci,id=s"
	}
	args := []string{"-accel", "tcg", "-S", "-nodefaults", "-nographic", "-m", "64", "-monitor", "stdio", "-blockdev", disk, "-device", device}
	if readOnly {
		args = append(args, "-device", "scsi-hd,drive=d")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, emulator, args...)
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = io.WriteString(in, "quit\n")
		in.Close()
		_ = cmd.Wait()
		cancel()
	})
	// The prompt says that the disks are open.
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), "(qemu)") {
		n, err := out.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("the guest did not start: %s", seen.String())
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
}

// TestLocksOfOurs runs QEMU's commands while ours has the images open,
// and while QEMU has: they fail alike.
func TestLocksOfOurs(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("image locks are those of Linux")
	}
	tools := needCLI(t)
	for _, format := range []string{"raw", "qcow2"} {
		for _, hold := range []string{"convert -r 1048576 -f FMT -O raw HELD sink", "convert -n -r 1048576 -f raw -O FMT free.raw HELD",
			"bench -f FMT -c 100000000 -s 512 HELD", "bench -w -f FMT -c 100000000 -s 512 HELD"} {
			if format == "raw" && strings.HasPrefix(hold, "bench -w") {
				continue // raw images are shared by writers: the same as bench, but slow beside it
			}
			t.Run(format+" "+hold, func(t *testing.T) {
				r := func(s string) []string {
					return words(strings.NewReplacer("HELD", "held."+format, "FMT", format).Replace(s))
				}
				var results [2][]outcome
				for i, holder := range []string{tools.img, tools.ours} {
					dir := lockFixture(t)
					// A disk that takes long enough to copy.
					testkit.Run(t, "dd", "if=/dev/urandom", "of="+filepath.Join(dir, "free.raw"), "bs=1M", "count=16", "status=none")
					if strings.HasPrefix(hold, "convert -r") {
						testkit.Run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", format, filepath.Join(dir, "free.raw"), filepath.Join(dir, "held."+format))
					}
					holdProcess(t, dir, filepath.Join(dir, "held."+format), holder, r(hold)...)
					for _, line := range strings.Split(lockLines, "\n") {
						if !changes(line) && !strings.HasPrefix(line, "info") && !strings.HasPrefix(line, "check") {
							continue
						}
						if strings.HasPrefix(line, "info") && strings.Contains(hold, "convert -n") || strings.Contains(line, "-U") {
							continue // what they see depends on how far the copy is
						}
						results[i] = append(results[i], runIn(t, dir, tools.img, r(line)...))
					}
				}
				for i, want := range results[0] {
					got := results[1][i]
					if got.code != want.code || normal(got.stderr) != normal(want.stderr) {
						t.Errorf("beside ours: %d %s\nbeside QEMU: %d %s", got.code, got.stderr, want.code, want.stderr)
					}
				}
			})
		}
	}
}

// holdProcess starts a program and waits until it holds image locks on path. It
// is killed at the end of the test.
func holdProcess(t *testing.T, dir, path, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Args[0] = filepath.Base(program)
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); !holdsLocks(cmd.Process.Pid, path); {
		if time.Now().After(deadline) {
			t.Fatalf("%v does not hold the image", args)
		}
	}
}

// holdsLocks says whether a process has path open with locks on it.
func holdsLocks(pid int, path string) bool {
	dir := fmt.Sprintf("/proc/%d/", pid)
	fds, _ := os.ReadDir(dir + "fd")
	for _, fd := range fds {
		if name, err := os.Readlink(dir + "fd/" + fd.Name()); err != nil || name != path {
			continue
		}
		if info, err := os.ReadFile(dir + "fdinfo/" + fd.Name()); err == nil && strings.Contains(string(info), "lock:") {
			return true
		}
	}
	return false
}
