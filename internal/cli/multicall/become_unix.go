//go:build unix

package multicall

import (
	"os"

	"golang.org/x/sys/unix"
)

// become replaces this process with a program, so that a signal meant for one ends the
// work: SIGKILL would leave a child that goes on. It returns only where it fails.
func become(path string, args []string) { unix.Exec(path, args, os.Environ()) }
