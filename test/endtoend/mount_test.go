//go:build linux

package endtoend

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

var mounterOnce sync.Once

// buildMounter puts cowl-mount beside cowl, which first says that it is missing.
func buildMounter(t *testing.T) {
	t.Helper()
	mounterOnce.Do(func() {
		path := os.Getenv("PATH")
		t.Setenv("PATH", t.TempDir())
		if _, stderr, code := testkit.Try(t, program, "mount", "-f", "raw", "x", "y"); code != 1 || !strings.Contains(stderr, "by the program cowl-mount, which is neither beside this one nor on PATH") {
			t.Errorf("without cowl-mount: %d, %s", code, stderr)
		}
		if _, stderr, code := testkit.Try(t, program, "mount", "--help"); code != 0 {
			t.Errorf("help without cowl-mount: %d, %s", code, stderr)
		}
		t.Setenv("PATH", path)
		if err := testkit.Build(filepath.Join(filepath.Dir(program), "cowl-mount"), "./cmd/cowl-mount"); err != nil {
			t.Fatal(err)
		}
	})
}

// mounted starts "cowl mount" with args and returns the file that shows the disk, and
// what ends the command: stop sends it a signal, or unmounts where that is 0. It skips
// where there is no FUSE.
func mounted(t *testing.T, args ...string) (disk string, stop func(sig syscall.Signal) error) {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skip("no FUSE here: ", err)
	} else {
		f.Close()
	}
	if os.Getuid() != 0 {
		t.Skip("mounting needs root, or fusermount3")
	}
	buildMounter(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, append(append([]string{"mount"}, args...), dir)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 4096)
	n, err := out.Read(line)
	if err != nil {
		err = errors.Join(err, cmd.Wait())
		cancel()
		t.Fatalf("mount %q: %v\n%s", args, err, &stderr)
	}
	ended := false
	stop = func(sig syscall.Signal) error {
		ended = true
		if sig == 0 {
			testkit.Run(t, testkit.Tool(t, "umount"), dir)
		} else if err := cmd.Process.Signal(sig); err != nil {
			return err
		}
		io.Copy(io.Discard, out)
		return cmd.Wait()
	}
	t.Cleanup(func() {
		if !ended {
			exec.Command("umount", "-l", dir).Run()
			cmd.Process.Kill()
			cmd.Wait()
		}
		cancel()
	})
	return strings.TrimSuffix(string(line[:n]), "\n"), stop
}

// TestMount: the disk is read and written as a file, a hole is a hole, and what was
// written is in the image when it is unmounted.
func TestMount(t *testing.T) {
	dir := t.TempDir()
	img := filepath.Join(dir, "disk.qcow2")
	cowl(t, "create", "-q", "-f", "qcow2", img, "16M")
	disk, stop := mounted(t, "-f", "qcow2", "-w", img)
	want := make([]byte, 16<<20)
	r := rand.New(rand.NewPCG(1, 2))
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		off := r.IntN(len(want))
		n := min(1+r.IntN(200_000), len(want)-off)
		for i := range n {
			want[off+i] = byte(r.Uint32())
		}
		if _, err := f.WriteAt(want[off:off+n], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Fallocate(int(f.Fd()), 1|2, 4<<20, 2<<20); err != nil { // keep the size, punch a hole
		t.Fatal(err)
	}
	clear(want[4<<20 : 6<<20])
	if at, err := f.Seek(4<<20, 4); err != nil || at != 4<<20 { // SEEK_HOLE
		t.Errorf("the hole is at %d (%v)", at, err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file does not hold what was written (%v)", err)
	}
	if _, err := f.WriteAt([]byte{1}, int64(len(want))); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write behind the end: %v", err)
	}
	if err := f.Truncate(1); !errors.Is(err, syscall.EPERM) {
		t.Errorf("a disk was cut: %v", err)
	}
	// Nobody else may write to the image meanwhile.
	if _, stderr, code := testkit.Try(t, program, "bench", "-w", "-c", "1", "-f", "qcow2", img); code != 1 || !strings.Contains(stderr, "lock") {
		t.Errorf("the image is not locked: %d, %s", code, stderr)
	}
	if err := errors.Join(f.Sync(), f.Close(), stop(0)); err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(dir, "disk.raw")
	cowl(t, "convert", "-O", "raw", img, raw)
	if got, err := os.ReadFile(raw); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image does not hold what was written (%v)", err)
	}
	cowl(t, "check", "-q", img)
}

// TestMountReadOnly: nothing can be written, and SIGTERM unmounts.
func TestMountReadOnly(t *testing.T) {
	img := filepath.Join(t.TempDir(), "disk.raw")
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := os.WriteFile(img, content, 0o644); err != nil {
		t.Fatal(err)
	}
	disk, stop := mounted(t, "-f", "raw", img)
	if got, err := os.ReadFile(disk); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the file is not the disk (%v)", err)
	}
	if f, err := os.OpenFile(disk, os.O_RDWR, 0); !errors.Is(err, syscall.EROFS) {
		t.Errorf("opened for writing: %v", err)
		if err == nil {
			f.Close()
		}
	}
	err := stop(syscall.SIGTERM)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("after SIGTERM: %v", err)
	}
	if _, err := os.Stat(disk); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is mounted still: %v", err)
	}
}

// TestMountPartition: -P shows what is between the limits of a partition.
func TestMountPartition(t *testing.T) {
	img := filepath.Join(t.TempDir(), "disk.raw")
	content := make([]byte, 4<<20)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range content {
		content[i] = byte(r.Uint32())
	}
	clear(content[:512])
	copy(content[446:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 0x00, 0x08, 0, 0, 0x00, 0x10, 0, 0}) // 4096 sectors at 2048
	copy(content[510:], []byte{0x55, 0xaa})
	if err := os.WriteFile(img, content, 0o644); err != nil {
		t.Fatal(err)
	}
	disk, stop := mounted(t, "-f", "raw", "-P", "1", img)
	if got, err := os.ReadFile(disk); err != nil || !bytes.Equal(got, content[1<<20:3<<20]) {
		t.Errorf("%d bytes, which are not the partition's (%v)", len(got), err)
	}
	if err := stop(0); err != nil {
		t.Error(err)
	}
	if _, stderr, code := testkit.Try(t, program, "mount", "-f", "raw", "-P", "2", img, t.TempDir()); code != 1 || !strings.Contains(stderr, "partition 2") {
		t.Errorf("a partition that there is not: %d, %s", code, stderr)
	}
}
