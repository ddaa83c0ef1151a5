//go:build unix

package program

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// childEnv makes the test binary a program that TestSignals starts.
const childEnv = "COWL_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "stubborn":
		Main(func(ctx context.Context, s Streams) int {
			fmt.Fprintln(s.Stdout, "ready")
			<-ctx.Done()
			fmt.Fprintln(s.Stdout, "asked")
			select {}
		})
	case "reader":
		MainOfReader(func(ctx context.Context, s Streams) int {
			fmt.Fprintln(s.Stdout, "ready")
			<-time.After(time.Minute) // the runtime ends a process whose goroutines all wait for each other
			return 0
		})
	case "patient":
		MainOfReader(func(ctx context.Context, s Streams) int {
			end := ctx.Done()
			fmt.Fprintln(s.Stdout, "ready")
			<-end
			fmt.Fprintln(s.Stdout, "asked")
			return 0
		})
	case "server":
		Main(func(ctx context.Context, s Streams) int {
			EndsOrderly(ctx)
			fmt.Fprintln(s.Stdout, "ready")
			<-ctx.Done()
			return 7
		})
	}
}

// child starts the test binary as a program, and returns what reads its output.
func child(t *testing.T, kind string) (*exec.Cmd, func() string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+kind)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop() })
	lines := bufio.NewReader(out)
	return cmd, func() string {
		line, _ := lines.ReadString('\n')
		return line
	}
}

// A second signal ends a program that does not obey the first.
func TestSecondSignal(t *testing.T) {
	defer testkit.HeedSignals()()
	cmd, line := child(t, "stubborn")
	for _, step := range []struct {
		wait string
		sig  syscall.Signal
	}{{"ready\n", syscall.SIGINT}, {"asked\n", syscall.SIGTERM}} {
		if got := line(); got != step.wait {
			t.Fatalf("%q, want %q", got, step.wait)
		}
		if err := cmd.Process.Signal(step.sig); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGTERM {
		t.Errorf("%v, want the end by the second signal", cmd.ProcessState)
	}
}

// A server fulfils the request to end, and its exit code counts.
func TestOrderlyEnd(t *testing.T) {
	cmd, line := child(t, "server")
	if got := line(); got != "ready\n" {
		t.Fatalf("%q", got)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
}

// A command that changes nothing ends at once, unless it waits for its context.
func TestReader(t *testing.T) {
	defer testkit.HeedSignals()()
	for kind, rest := range map[string]string{"reader": "", "patient": "asked\n"} {
		cmd, line := child(t, kind)
		if got := line(); got != "ready\n" {
			t.Fatalf("%s: %q", kind, got)
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if got := line(); got != rest {
			t.Errorf("%s: %q after the signal, want %q", kind, got, rest)
		}
		_ = cmd.Wait()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGINT {
			t.Errorf("%s: %v, want the end by the signal", kind, cmd.ProcessState)
		}
	}
}
