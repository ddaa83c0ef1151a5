//go:build unix

package posix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/guestagent"
)

// maxHelperOutput bounds what is kept of what a helper program prints.
const maxHelperOutput = 64 << 10

// moreDirs are where helper programs are looked for beside PATH: a service may have
// none, and NixOS keeps them elsewhere.
var moreDirs = []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin", "/run/current-system/sw/bin"}

// Look finds a helper program in PATH and in the usual folders below root.
func Look(root, name string) (string, bool) {
	if root == "/" || root == "" {
		if path, err := exec.LookPath(name); err == nil {
			return path, true
		}
	}
	for _, dir := range moreDirs {
		path := filepath.Join(root, dir, name)
		if Executable(path) {
			return path, true
		}
	}
	return "", false
}

// Executable reports whether a file can be run.
func Executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// bounded keeps the beginning of what is written.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, maxHelperOutput-b.Len()))])
	return len(p), nil
}

// Run runs a helper program in a session of its own, with input, and waits for it.
// The error has what it printed. action completes "failed to …". With a limit, the
// program and its children are killed after that time.
func Run(ctx context.Context, action string, input []byte, limit time.Duration, argv ...string) error {
	ctx = context.WithoutCancel(ctx)
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if input != nil {
		cmd.Stdin = bytes.NewReader(input)
	}
	var out bounded
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("child process has failed to %s: failed to exec '%s': %w\n", action, argv[0], guestagent.Cause(errors.Unwrap(err)))
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("child process has failed to %s: it did not end within %v", action, limit)
	case errors.As(err, &exit) && exit.Exited() && out.Len() > 0:
		return fmt.Errorf("child process has failed to %s: %s", action, out.String())
	case errors.As(err, &exit) && exit.Exited():
		return fmt.Errorf("child process has failed to %s: exit status %d", action, exit.ExitCode())
	case errors.As(err, &exit) && out.Len() > 0:
		return fmt.Errorf("child process has terminated abnormally: %s", out.String())
	case errors.As(err, &exit):
		return errors.New("child process has terminated abnormally")
	}
	return err
}

// Hook returns a hook that runs a program.
func Hook(program string, limit time.Duration) guestagent.Hook {
	return func(ctx context.Context, action string) error {
		return Run(ctx, "execute fsfreeze hook", nil, limit, program, action)
	}
}
