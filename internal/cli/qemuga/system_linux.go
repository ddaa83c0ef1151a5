package qemuga

import (
	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/linux"
)

const defaultVirtio = "/dev/virtio-ports/org.qemu.guest_agent.0"

// system is what the agent can do here.
type system struct {
	commands []guestagent.Command
	freezer  guestagent.Freezer
}

func newSystem() system {
	s := linux.New()
	return system{s.Commands(), s}
}
