package qemuga

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/freebsd"
)

const defaultVirtio = "/dev/vtcon/org.qemu.guest_agent.0"

// system is what the agent can do here.
type system struct {
	commands []guestagent.Command
	freezer  guestagent.Freezer
}

func newSystem() system {
	s := freebsd.New()
	return system{s.Commands(), s}
}

// rawDevice turns the echo of a port off: the host would read its own requests.
func rawDevice(f *os.File) error {
	tio, err := unix.IoctlGetTermios(int(f.Fd()), unix.TIOCGETA)
	if err != nil {
		return err
	}
	tio.Lflag &^= unix.ECHO
	return unix.IoctlSetTermios(int(f.Fd()), unix.TIOCSETA, tio)
}
