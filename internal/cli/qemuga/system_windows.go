package qemuga

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/windows"
)

const (
	defaultVirtio    = `\\.\Global\org.qemu.guest_agent.0`
	defaultSerial    = "COM1"
	defaultHook      = `C:\Program Files\qemu-ga\fsfreeze-hook.bat`
	serviceSupported = true
)

// The folders of the program follow from the environment.
var (
	defaultState  = filepath.Join(os.Getenv("ProgramData"), "qemu-ga")
	defaultConfig = filepath.Join(os.Getenv("ProgramData"), "qemu-ga", "qemu-ga.conf")
)

// system is what the agent can do here.
type system struct {
	commands []guestagent.Command
	freezer  guestagent.Freezer
}

func newSystem() system { return system{commands: windows.Commands()} }

func newHook(program string, limit time.Duration) guestagent.Hook {
	return func(ctx context.Context, action string) error {
		if limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		out, err := exec.CommandContext(ctx, program, action).CombinedOutput()
		if err != nil {
			return fmt.Errorf("child process has failed to execute fsfreeze hook: %w: %s", err, out)
		}
		return nil
	}
}

func newAccounter() accounter { return nil }

func ignoreBrokenPipes() {}
func closeOnExec()       {}

func inheritedSockets() (int, string, error) { return 0, "", nil }

// A service manager keeps the program in the background here.
func isDaemon() bool                 { return true }
func (p *invocation) daemonize() int { return 1 }
func detach() error                  { return nil }

// pidFile names the process of a daemon.
type pidFile struct{ name string }

func (p *pidFile) write(name string) error {
	p.name = name
	return os.WriteFile(name, []byte(fmt.Sprintln(os.Getpid())), 0o600)
}

func (p *pidFile) remove() {
	if p.name != "" {
		os.Remove(p.name)
	}
}
