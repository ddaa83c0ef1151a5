//go:build unix

package script

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deadline kills a command that does not end by itself.
func deadline(t *testing.T, cmd *exec.Cmd) {
	timer := time.AfterFunc(30*time.Second, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
	})
	t.Cleanup(func() { timer.Stop() })
}

// waiting starts a conversion that waits for its input, and returns once it is
// under way.
func waiting(t *testing.T, stderr io.Writer) (cmd *exec.Cmd, stdin io.WriteCloser, target string) {
	t.Helper()
	target = filepath.Join(t.TempDir(), "target.raw")
	cmd = exec.Command(os.Args[0], "convert", "-p", "-", target)
	cmd.Args[0] = "cowl"
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = stderr
	deadline(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The first sign of progress.
	if _, err := bufio.NewReader(stdout).ReadString('\r'); err != nil {
		t.Fatal(err)
	}
	return cmd, stdin, target
}

func TestInterrupt(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		var stderr bytes.Buffer
		cmd, stdin, target := waiting(t, &stderr)
		defer stdin.Close()
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("%v: exit code %d", sig, code)
		}
		want := "cowl: Interrupted\n"
		if stderr.String() != want {
			t.Errorf("%v: %q, want %q", sig, stderr.String(), want)
		}
		if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v: the incomplete target remains: %v", sig, err)
		}
	}
}

func TestProgressSignal(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	target := filepath.Join(t.TempDir(), "target.raw")
	cmd := exec.Command(os.Args[0], "convert", "-p", "-", target)
	cmd.Args[0] = "cowl"
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = write
	deadline(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	lines := bufio.NewReader(read)
	if _, err := lines.ReadString('\r'); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	line, err := lines.ReadString('\n')
	if err != nil || !strings.Contains(line, "(0.00/100%)") {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := stdin.Write(make([]byte, 1024)); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the conversion did not survive the signal: %v", err)
	}
	if st, err := os.Stat(target); err != nil || st.Size() != 1024 {
		t.Errorf("target %v, %v", st, err)
	}
}
