//go:build unix && !linux && !freebsd

package qemuga

import (
	"context"
	"os"
	"time"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/posix"
)

const defaultVirtio = "/dev/virtio-ports/org.qemu.guest_agent.0"

// system is what the agent can do here.
type system struct {
	commands []guestagent.Command
	freezer  guestagent.Freezer
}

func newSystem() system {
	return system{commands: append([]guestagent.Command{
		guestagent.New("guest-get-timezone", "2.10", "Report the time zone",
			func(context.Context, guestagent.None) (posix.Timezone, error) {
				return posix.ReadTimezone("/", time.Now()), nil
			}),
		guestagent.New("guest-get-osinfo", "2.10", "Report the operating system",
			func(context.Context, guestagent.None) (posix.OSInfo, error) { return posix.ReadOSInfo("/") }),
	}, posix.SSH{Root: "/"}.Commands()...)}
}

func rawDevice(*os.File) error { return nil }
