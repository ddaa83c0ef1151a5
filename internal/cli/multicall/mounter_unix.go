//go:build unix

package multicall

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// becomeMounter has the program for mounts take the place of this one, so that signals
// reach it and it may run for as long as it likes. Where it is not installed nothing
// happens: the command tells what is missing, or helps.
func becomeMounter(args []string) {
	if path, err := companion("cowl-mount"); err == nil {
		err = unix.Exec(path, args, os.Environ())
		fmt.Fprintf(os.Stderr, "cowl: %s: %v\n", path, err)
		os.Exit(1)
	}
}
