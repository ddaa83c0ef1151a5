package endtoend

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// try runs our program and returns what it printed and its exit code.
func try(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return testkit.Try(t, program, args...)
}

// randomFile makes a file that does not compress.
func randomFile(t *testing.T, name string, size int) {
	t.Helper()
	p := make([]byte, size)
	c := rand.NewChaCha8([32]byte{1})
	_, _ = c.Read(p)
	if err := os.WriteFile(name, p, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestDiskFull fills a file system, by conversion and by writing into an image.
func TestDiskFull(t *testing.T) {
	original := testkit.Tool(t, "qemu-img")
	for _, fs := range []string{"tmpfs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			full := testkit.Mount(t, fs, "32M")
			src := filepath.Join(t.TempDir(), "src.raw")
			randomFile(t, src, 64<<20)
			want, err := os.ReadFile(src)
			if err != nil {
				t.Fatal(err)
			}
			for _, format := range []string{"raw", "qcow2"} {
				out := filepath.Join(full, "out")
				_, stderr, code := try(t, "convert", "-O", format, src, out)
				if code != 1 || !strings.Contains(stderr, "No space left on device") {
					t.Errorf("convert to %s on a full file system: exit code %d, %s", format, code, stderr)
				}
				if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("convert to %s on a full file system: the incomplete target remains: %v", format, err)
					os.Remove(out)
				}
			}
			if got, err := os.ReadFile(src); err != nil || !bytes.Equal(got, want) {
				t.Error("the source changed")
			}
			// An image that was good before stays good: what it held is there, and
			// check finds leaks at most.
			img := filepath.Join(full, "img.qcow2")
			head := filepath.Join(t.TempDir(), "head.raw")
			if err := os.WriteFile(head, want[:8<<20], 0o644); err != nil {
				t.Fatal(err)
			}
			cowl(t, "convert", "-f", "raw", "-O", "qcow2", head, img)
			cowl(t, "resize", "-f", "qcow2", img, "128M")
			_, stderr, code := try(t, "bench", "-f", "qcow2", "-w", "-c", "1500", "-s", "65536", "-o", "8M", "--pattern", "7", img)
			if code != 1 || !strings.Contains(stderr, "No space left on device") {
				t.Errorf("writing into an image on a full file system: exit code %d, %s", code, stderr)
			}
			if stdout, stderr, code := testkit.Try(t, original, "check", "-f", "qcow2", img); code != 0 {
				t.Errorf("the image is damaged, or has leaks: %d %s%s", code, stdout, stderr)
			}
			back := filepath.Join(t.TempDir(), "back.raw")
			cowl(t, "convert", "-f", "qcow2", "-O", "raw", img, back)
			got, err := os.ReadFile(back)
			if err != nil || len(got) < 8<<20 || !bytes.Equal(got[:8<<20], want[:8<<20]) {
				t.Error("what the image held before is lost")
			}
		})
	}
}

// TestKilledConvert stops a conversion in the middle, rudely and politely.
func TestKilledConvert(t *testing.T) {
	defer testkit.HeedSignals()()
	for _, c := range []struct {
		name   string
		signal os.Signal
	}{{"kill", syscall.SIGKILL}, {"terminate", syscall.SIGTERM}, {"interrupt", os.Interrupt}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			src, out := filepath.Join(dir, "src.raw"), filepath.Join(dir, "out.qcow2")
			randomFile(t, src, 32<<20)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, program, "convert", "--progress=json", "-r", "8M", "-f", "raw", "-O", "qcow2", src, out)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitForProgress(t, stdout)
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Fatal("the conversion ended as if nothing had happened")
			}
			if _, err := os.Stat(out); c.name != "kill" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the incomplete target remains: %v, %q", err, stderr.String())
			}
			cowl(t, "convert", "-f", "raw", "-O", "qcow2", src, out)
			cowl(t, "compare", "-f", "raw", "-F", "qcow2", src, out)
		})
	}
}

// waitForProgress reads progress lines until something was copied.
func waitForProgress(t *testing.T, r interface{ Read([]byte) (int, error) }) {
	t.Helper()
	var seen []byte
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		seen = append(seen, buf[:n]...)
		if strings.Count(string(seen), `"phase":"copy"`) > 2 {
			return
		}
		if err != nil {
			t.Fatalf("no progress was printed: %q, %v", seen, err)
		}
	}
}

// TestReadOnlyFile writes where writing is not allowed.
func TestReadOnlyFile(t *testing.T) {
	original := testkit.Tool(t, "qemu-img")
	dir := testkit.Mount(t, "tmpfs", "16M")
	img := filepath.Join(dir, "img.qcow2")
	cowl(t, "create", "-q", "-f", "qcow2", img, "64M")
	testkit.Run(t, "mount", "-o", "remount,ro", dir)
	before, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"resize", "-f", "qcow2", img, "128M"},
		{"check", "-f", "qcow2", "-r", "all", img},
		{"bench", "-f", "qcow2", "-w", "-c", "1", img},
		{"create", "-q", "-f", "qcow2", filepath.Join(dir, "new"), "1M"},
	} {
		_, wantErr, wantCode := testkit.Try(t, original, args...)
		_, gotErr, gotCode := try(t, args...)
		want := strings.ReplaceAll(wantErr, "qemu-img: ", "cowl: ")
		if gotCode != wantCode || gotErr != want {
			t.Errorf("%v: exit code %d, %q; QEMU: %d, %q", args, gotCode, gotErr, wantCode, want)
		}
	}
	if after, err := os.ReadFile(img); err != nil || !bytes.Equal(before, after) {
		t.Error("the image changed")
	}
}

// TestVanishedBackingFile uses an overlay whose backing file is gone.
func TestVanishedBackingFile(t *testing.T) {
	original := testkit.Tool(t, "qemu-img")
	dir := t.TempDir()
	base, img := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "img.qcow2")
	cowl(t, "create", "-q", "-f", "qcow2", base, "64M")
	cowl(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", img)
	if err := os.Remove(base); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"convert", "-O", "raw", img, filepath.Join(dir, "out")},
		{"map", img},
		{"check", img},
		{"compare", img, img},
		{"resize", img, "128M"},
	} {
		_, wantErr, wantCode := testkit.Try(t, original, args...)
		_, gotErr, gotCode := try(t, args...)
		want := strings.ReplaceAll(wantErr, "qemu-img: ", "cowl: ")
		if gotCode != wantCode || gotErr != want {
			t.Errorf("%v: exit code %d, %q; QEMU: %d, %q", args, gotCode, gotErr, wantCode, want)
		}
	}
	cowl(t, "info", img)
	if _, err := os.Stat(filepath.Join(dir, "out")); err == nil {
		t.Error("a failed conversion left a target though nothing was converted")
	}
}

// TestFullDiskCommands runs out of room in commands that write a lot into an image.
// What they leave has no leaks, as with QEMU.
func TestFullDiskCommands(t *testing.T) {
	original := testkit.Tool(t, "qemu-img")
	for _, size := range []string{"4k", "64k", "2M"} {
		for _, command := range [][]string{{"commit", "-f", "qcow2"}, {"rebase", "-b", "", "-f", "qcow2"}} {
			dir := testkit.Mount(t, "tmpfs", "48M")
			base, top := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "top.qcow2")
			cowl(t, "create", "-q", "-f", "qcow2", "-o", "cluster_size="+size, base, "64M")
			cowl(t, "create", "-q", "-f", "qcow2", "-o", "cluster_size="+size, "-b", base, "-F", "qcow2", top)
			full := base
			if command[0] == "commit" {
				full = top
			}
			cowl(t, "bench", "-q", "-f", "qcow2", "-w", "-c", "128", "-s", "65536", "--pattern", "7", full)
			_, free, _ := strings.Cut(testkit.Run(t, "df", "--output=avail", "--block-size=1", dir), "\n")
			n, err := strconv.Atoi(strings.TrimSpace(free))
			if err != nil {
				t.Fatal(err)
			}
			randomFile(t, filepath.Join(dir, "fill"), n-4<<20) // room for about half of it
			_, stderr, code := try(t, append(command, top)...)
			if code != 1 || !strings.Contains(stderr, "No space left on device") {
				t.Errorf("%s, clusters of %s: exit code %d, %s", command[0], size, code, stderr)
			}
			for _, img := range []string{base, top} {
				if stdout, stderr, code := testkit.Try(t, original, "check", "-f", "qcow2", img); code != 0 {
					t.Errorf("%s, clusters of %s: %s: %d %s%s", command[0], size, img, code, stdout, stderr)
				}
			}
		}
	}
}

// TestCutShortImage: an image whose end is missing is not converted into zeroes, unless
// that is asked for.
func TestCutShortImage(t *testing.T) {
	dir := t.TempDir()
	src, img, out := filepath.Join(dir, "src.raw"), filepath.Join(dir, "img.qcow2"), filepath.Join(dir, "out.raw")
	randomFile(t, src, 8<<20)
	cowl(t, "convert", "-f", "raw", "-O", "qcow2", src, img)
	if err := os.Truncate(img, 5<<20); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"convert", "-f", "qcow2", "-O", "raw", img, out}, {"compare", "-f", "qcow2", "-F", "raw", img, src}} {
		if _, stderr, code := try(t, args...); code == 0 || !strings.Contains(stderr, "beyond the end of the image file") {
			t.Errorf("%s: exit code %d, %q", args[0], code, stderr)
		}
	}
	if _, stderr, code := try(t, "convert", "--salvage", "-f", "qcow2", "-O", "raw", img, out); code != 0 {
		t.Errorf("convert --salvage: exit code %d, %q", code, stderr)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:4<<20], want[:4<<20]) || !bytes.Equal(got[6<<20:], make([]byte, 2<<20)) {
		t.Error("what was salvaged is not what is there")
	}
	if stdout, stderr, code := try(t, "check", "-f", "qcow2", img); code != 2 {
		t.Errorf("check: exit code %d, %s%s", code, stdout, stderr)
	}
}
