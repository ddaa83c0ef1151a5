//go:build wine

package windows

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// limit is when a program is taken for hanging.
const limit = 2 * time.Minute

// machine is a system with Wine and a folder for images in it.
type machine struct {
	*testing.T
	root string // of the system
	dir  string // the folder, seen from here
}

var build sync.Once

// newMachine makes a folder in the system. The programs are built once.
func newMachine(t *testing.T) *machine {
	t.Helper()
	root := os.Getenv("COWL_WINE")
	if root == "" {
		t.Fatal("COWL_WINE does not name a system with Wine: run tools/try-windows.sh")
	}
	dir, err := os.MkdirTemp(filepath.Join(root, "root"), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	build.Do(func() {
		for _, name := range []string{"cowl", "cowl-agent"} {
			cmd := exec.Command("go", "build", "-o", filepath.Join(root, "root", name+".exe"), "./cmd/"+name)
			if cmd.Dir, err = testkit.ModuleRoot(); err != nil {
				t.Fatal(err)
			}
			cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		m := &machine{t, root, dir}
		// Wine's server stays until some time after the last program.
		m.run("wineserver", "-p60")
		m.cowl("--version") // makes Wine's folder
	})
	return &machine{t, root, dir}
}

// command is a program in the system, in the machine's folder.
func (m *machine) command(ctx context.Context, args ...string) *exec.Cmd {
	inside := "/root/" + filepath.Base(m.dir)
	argv := append([]string{m.root, "/usr/bin/env", "-C", inside, "-i", "HOME=/root", "PATH=/usr/bin:/bin", "WINEDEBUG=-all", "LC_ALL=C.UTF-8",
		"XDG_RUNTIME_DIR=/tmp"}, args...)
	cmd := exec.CommandContext(ctx, "chroot", argv...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// result is what a program left.
type result struct {
	out  string // both streams
	code int
}

func (m *machine) run(args ...string) result {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), limit)
	defer cancel()
	cmd := m.command(ctx, args...)
	// No pipe: Wine's own programs keep it open for longer than the program runs.
	out, err := os.CreateTemp(m.TempDir(), "out")
	if err != nil {
		m.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, readErr := os.ReadFile(out.Name())
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || readErr != nil {
		m.Fatalf("%q: %v: %s", args, errors.Join(err, readErr), text)
	}
	return result{strings.ReplaceAll(string(text), "\r\n", "\n"), cmd.ProcessState.ExitCode()}
}

// cowl runs the program for Windows, which must succeed, and returns what it prints.
func (m *machine) cowl(args ...string) string {
	m.Helper()
	r := m.try(args...)
	if r.code != 0 {
		m.Fatalf("cowl %q: exit code %d: %s", args, r.code, r.out)
	}
	return r.out
}

func (m *machine) try(args ...string) result {
	m.Helper()
	return m.run(append([]string{"wine", "/root/cowl.exe"}, args...)...)
}

// start begins a program that runs until it is killed.
func (m *machine) start(args ...string) *exec.Cmd {
	m.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := m.command(ctx, args...)
	// The program is a child of Wine's starter.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cancel()
		_ = cmd.Wait()
	})
	return cmd
}

// until waits for a condition.
func (m *machine) until(what string, done func() bool) {
	m.Helper()
	for end := time.Now().Add(limit); !done(); {
		if time.Now().After(end) {
			m.Fatalf("%s: not seen", what)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// write makes a file with content in the machine's folder.
func (m *machine) write(name string, content []byte) {
	m.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), content, 0o644); err != nil {
		m.Fatal(err)
	}
}
