//go:build unix

package qemunbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// isChild says whether a parent waits for this process to be ready.
func isChild() bool { return os.Getenv(envReady) != "" }

// childReady returns what a child calls when clients can connect. In a process of
// its own it does nothing.
func childReady() (func(), error) {
	if !isChild() {
		return func() {}, nil
	}
	fd, err := strconv.Atoi(os.Getenv(envReady))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envReady, err)
	}
	unix.CloseOnExec(fd)
	pipe := os.NewFile(uintptr(fd), "ready")
	return func() {
		// The standard streams are closed from now on: messages are dropped.
		if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
			for std := range 3 {
				_ = unix.Dup2(int(null.Fd()), std)
			}
			null.Close()
		}
		_, _ = pipe.Write([]byte{1})
		pipe.Close()
	}, nil
}

// daemonize runs this program again, in a session of its own, and returns when that
// says that it is ready, or its exit code if it ends before.
func (p *Program) daemonize(ctx context.Context, args []string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer read.Close()
	cmd := &exec.Cmd{Path: self, Args: append(append([]string{os.Args[0]}, p.Prefix...), args...), Stdout: os.Stdout, Stderr: os.Stderr,
		ExtraFiles: []*os.File{write}, Env: append(os.Environ(), envReady+"=3"), SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	if ok, err := activated(); err != nil {
		return 0, err
	} else if ok {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(firstActivated, "inherited socket"))
		cmd.Env = append(cmd.Env, envListen+"=4")
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("Failed to fork: %w", cause(err))
	}
	write.Close()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	if n, err := read.Read(make([]byte, 1)); n == 1 {
		return 0, cmd.Process.Release()
	} else if err != nil && err != io.EOF {
		return 0, err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode(), nil
	case err != nil:
		return 0, fmt.Errorf("the server ended before it was ready: %w", err)
	}
	return 0, nil
}
