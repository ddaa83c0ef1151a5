package multicall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cowl-disk/cowl/internal/cli/program"
)

// packerName is the program that makes images for Incus. It is one of its own, since what
// it is made of would double the time in which every other command starts.
const packerName = "cowl-incus"

// packs are its commands, which this program passes on.
func packs() []*program.Command {
	list := []*program.Command{
		{Name: "pack-incus", Summary: "Make an Incus image of a root file system"},
		{Name: "build-incus", Summary: "Make an Incus image from a definition"},
		{Name: "build-dir", Summary: "Make a root file system from a definition"},
		{Name: "validate", Summary: "Validate a definition of an Incus image"},
		{Name: "repack-incus", Summary: "Write an Incus image in another form"},
		{Name: "incus-index", Summary: "Write the entry of an Incus image for an image server"},
	}
	for _, c := range list {
		c.Usage = []string{"[OPTIONS] …"}
		c.About = "Done by the program " + packerName + ", which is looked for beside this one and on PATH."
	}
	return list
}

func isPack(name string) bool {
	for _, c := range packs() {
		if c.Name == name {
			return true
		}
	}
	return false
}

// pack runs the packer by the name that this program was called by.
func pack(ctx context.Context, s program.Streams, name string, args []string) int {
	path, err := companion(packerName)
	if err != nil {
		fmt.Fprintf(s.Stderr, "%s: images for Incus are made by the program %s, which is neither beside this one nor on PATH: install it, or build it from cmd/%[2]s\n", name, packerName)
		return 1
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Args[0] = name
	if s.Stdin == io.Reader(os.Stdin) && s.Data == io.Writer(os.Stdout) && s.Screen == io.Writer(os.Stderr) {
		become(path, cmd.Args) // where it returns, the program runs as a child
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.Stdin, s.Data, s.Screen
	cmd.Cancel = func() error { return interrupt(cmd.Process) }
	cmd.WaitDelay = time.Minute // it cleans up
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	case ctx.Err() == nil:
		fmt.Fprintf(s.Stderr, "%s: %s: %v\n", name, path, err)
	}
	return 1
}

// interrupt asks a process to end.
func interrupt(p *os.Process) error {
	if runtime.GOOS == "windows" {
		return p.Kill()
	}
	return p.Signal(os.Interrupt)
}

// companion finds a program of ours beside this one, or on PATH.
func companion(name string) (string, error) {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			beside := filepath.Join(filepath.Dir(real), name)
			if st, err := os.Stat(beside); err == nil && st.Mode().IsRegular() {
				return beside, nil
			}
		}
	}
	return exec.LookPath(name)
}
