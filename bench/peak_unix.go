//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// timeCommand runs a command and tells its wall time, processor time and peak memory, which another program
// measures (see launch). A command that ends with the exit code accept is one that did its work.
func timeCommand(ctx context.Context, c *config, args []string, accept int) (s sample, err error) {
	program, err := exec.LookPath(args[0])
	if err != nil {
		return s, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return s, err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, c.launch, append([]string{program}, args[1:]...)...)
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var errText strings.Builder
	cmd.Stderr = &errText
	err = cmd.Run()
	w.Close()
	if code := cmd.ProcessState.ExitCode(); err != nil && code != accept {
		return s, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errText.String())
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return s, err
	}
	var cpu, wall int64
	if _, err := fmt.Sscan(string(text), &s.peak, &cpu, &wall); err != nil {
		return s, fmt.Errorf("what %s says of %s: %w", c.launch, args[0], err)
	}
	s.cpu, s.time = time.Duration(cpu), time.Duration(wall)
	return s, nil
}

// roomOf is how many bytes a file takes on disk.
func roomOf(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512, nil
	}
	return info.Size(), nil
}
