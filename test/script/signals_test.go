//go:build unix

package script

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
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
	// Whoever ignores a signal, as nohup does, has its children ignore it.
	defer testkit.HeedSignals()()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		var stderr bytes.Buffer
		cmd, stdin, target := waiting(t, &stderr)
		defer stdin.Close()
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != sig {
			t.Errorf("%v: %v, want an end by the signal", sig, cmd.ProcessState)
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

// TestInterruptHostile interrupts commands that have very much to look at: a disk of
// 16 TiB whose tables are one table of many small extents.
func TestInterruptHostile(t *testing.T) {
	defer testkit.HeedSignals()()
	for _, args := range [][]string{{"measure", "-O", "qcow2"}, {"map"}, {"amend", "-o", "compat=0.10"}, {"compare", "-f", "qcow2", "-F", "qcow2", "disk.qcow2"}, {"checksum"}} {
		t.Run(args[0], func(t *testing.T) {
			dir := t.TempDir()
			hostile(t, dir)
			cmd := exec.Command(os.Args[0], append(append([]string{"-T", "file_co_preadv"}, args...), "disk.qcow2")...)
			cmd.Args[0], cmd.Dir = "cowl", dir
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			deadline(t, cmd)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(stderr)
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, lines)
			_ = cmd.Wait()
			if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGINT {
				t.Errorf("%v, want an end by the signal", cmd.ProcessState)
			}
		})
	}
}

// hostile makes disk.qcow2, all of whose L1 entries point at one L2 table, every other
// entry of which points at one cluster.
func hostile(t *testing.T, dir string) {
	t.Helper()
	cowlIn(t, dir, "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", "disk.qcow2", "16T")
	f, err := os.OpenFile(filepath.Join(dir, "disk.qcow2"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 48)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	const cluster = 1 << 16
	end := (st.Size() + cluster - 1) / cluster * cluster
	table := make([]byte, 2*cluster)
	for i := 0; i < cluster; i += 16 {
		binary.BigEndian.PutUint64(table[i:], uint64(end+cluster))
	}
	if _, err := f.WriteAt(table, end); err != nil {
		t.Fatal(err)
	}
	l1 := make([]byte, 8*binary.BigEndian.Uint32(head[36:]))
	for i := 0; i < len(l1); i += 8 {
		binary.BigEndian.PutUint64(l1[i:], uint64(end))
	}
	if _, err := f.WriteAt(l1, int64(binary.BigEndian.Uint64(head[40:]))); err != nil {
		t.Fatal(err)
	}
}
