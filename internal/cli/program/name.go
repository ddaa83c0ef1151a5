package program

import (
	"path/filepath"
	"strings"
)

// Kind is which program a name means.
type Kind uint8

// The programs.
const (
	Cowl   Kind = iota // all of them, as commands
	Image              // qemu-img
	Server             // qemu-nbd
	IO                 // qemu-io
	Agent              // qemu-ga
	Daemon             // qemu-storage-daemon
	Packer             // distrobuilder
)

// Name is the name under which a program was called, for its messages: the last
// part of the first of the process's arguments.
func Name(args []string) string {
	if len(args) == 0 || args[0] == "" {
		return "cowl"
	}
	return strings.TrimSuffix(filepath.Base(args[0]), ".exe")
}

// KindOf tells which program a name means. Distributions and users have names
// of their own ("kvm-img", "qemu-nbd-static"), so that the end of it counts.
func KindOf(name string) Kind {
	name = strings.TrimSuffix(name, "-static")
	switch {
	case strings.HasSuffix(name, "-img"):
		return Image
	case strings.HasSuffix(name, "-nbd"):
		return Server
	case strings.HasSuffix(name, "-io"):
		return IO
	case strings.HasSuffix(name, "-ga"):
		return Agent
	case strings.HasSuffix(name, "-storage-daemon"):
		return Daemon
	case name == "distrobuilder":
		return Packer
	}
	return Cowl
}
