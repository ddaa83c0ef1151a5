//go:build unix

package script

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// sh runs a shell script in which $COWL is the program, called by the name cowl
// ($COWL must be the first word of a command).
func sh(t *testing.T, dir, script string, env ...string) (stdout, stderr string, err error) {
	t.Helper()
	link := filepath.Join(dir, "cowl")
	if err := os.Symlink(os.Args[0], link); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "COWL="+link), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	deadline(t, cmd)
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// A reader that goes away does not end the work.
func TestBrokenPipe(t *testing.T) {
	dir := t.TempDir()
	pattern(t, filepath.Join(dir, "disk.raw"), 0)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "convert", "-p", "-", "out.raw")
	cmd.Args[0], cmd.Dir, cmd.Stdout = "cowl", dir, write
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	deadline(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	if _, err := io.ReadFull(read, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	read.Close()
	disk, err := os.ReadFile(filepath.Join(dir, "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(disk); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("convert without a reader of its progress: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "out.raw")); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("the copy is not whole: %d of %d bytes, %v", len(got), len(disk), err)
	}
	// The map of 500 extents does not fit into what a pipe holds unread by chance.
	_, stderr, err := sh(t, dir, `{ "$COWL" map --output=json -f raw disk.raw; echo $? >code; } | true; cat code >&2`)
	if err != nil || strings.TrimSpace(stderr) != "0" {
		t.Errorf("map without a reader: %v, %q", err, stderr)
	}
}

// An image on the standard output is data: somebody must read it.
func TestBrokenPipeOfData(t *testing.T) {
	dir := t.TempDir()
	pattern(t, filepath.Join(dir, "disk.raw"), 0)
	_, stderr, err := sh(t, dir, `{ "$COWL" convert -f raw -O raw disk.raw -; echo $? >&2; } | true`)
	if err != nil || !strings.HasPrefix(stderr, "cowl: error while writing to the standard output") || !strings.HasSuffix(stderr, "\n1\n") {
		t.Errorf("%v, %q", err, stderr)
	}
}

// What was ignored when the program started stays ignored.
func TestIgnoredSignal(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "cowl")
	if err := os.Symlink(os.Args[0], link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `trap '' INT HUP; exec "$0" convert -p - target.raw`, link)
	cmd.Dir = dir
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	deadline(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if _, err := lines.ReadString('\r'); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	// The answer to a later signal shows that the others have been delivered.
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	_, _ = io.Copy(io.Discard, lines)
	if err := cmd.Wait(); err != nil {
		t.Errorf("a signal that is ignored ended the program: %v", err)
	}
}

// No lack of descriptors makes the program end with a dump of its goroutines.
func TestFewDescriptors(t *testing.T) {
	dir := t.TempDir()
	if _, stderr, err := sh(t, dir, `"$COWL" create -q -f qcow2 disk.qcow2 1M`); err != nil {
		t.Fatalf("%v %s", err, stderr)
	}
	failed := false
	for n := 3; n <= 16; n++ {
		stdout, stderr, err := sh(t, dir, `ulimit -n `+strconv.Itoa(n)+`; exec "$COWL" info disk.qcow2`)
		switch {
		case strings.Contains(stderr, "goroutine") || strings.Contains(stderr, "fatal error"):
			t.Errorf("%d descriptors: %s", n, stderr)
		case err != nil && strings.Count(stderr, "\n") != 1:
			t.Errorf("%d descriptors: %v, %q", n, err, stderr)
		case err == nil && !strings.Contains(stdout, "file format: qcow2"):
			t.Errorf("%d descriptors: %q", n, stdout)
		}
		failed = failed || err != nil
	}
	if !failed {
		t.Error("3 descriptors are enough: the limit does not work")
	}
	for _, closed := range []string{"<&-", ">&-", "2>&-", "<&- >&- 2>&-"} {
		if _, stderr, err := sh(t, dir, `"$COWL" check disk.qcow2 `+closed); err != nil {
			t.Errorf("%s: %v, %s", closed, err, stderr)
		}
		if head, err := os.ReadFile(filepath.Join(dir, "disk.qcow2")); err != nil || string(head[:3]) != "QFI" {
			t.Fatalf("%s: the image is damaged: %q, %v", closed, head[:3], err)
		}
	}
}
