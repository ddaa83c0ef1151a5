//go:build !unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// timeCommand runs a command and tells its wall time and processor time; the system does not tell its peak
// memory. A command that ends with the exit code accept is one that did its work.
func timeCommand(ctx context.Context, _ *config, args []string, accept int) (sample, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var errText strings.Builder
	cmd.Stderr = &errText
	start := time.Now()
	err := cmd.Run()
	s := sample{time: time.Since(start)}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != accept) {
		return s, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errText.String())
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return s, nil
}

// roomOf is the length of a file: what it takes on disk is not known here.
func roomOf(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
