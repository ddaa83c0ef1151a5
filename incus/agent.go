package incus

import (
	_ "embed"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/cowl-disk/cowl/fstree"
)

// What is put into root file systems.
var (
	//go:embed files/incus-agent-setup.sh
	agentSetup string
	//go:embed files/incus-agent.service
	agentUnit string
	//go:embed files/incus-agent.openrc
	agentOpenRC string
	//go:embed files/incus-agent-setup.openrc
	agentSetupOpenRC string
	//go:embed files/incus-agent.procd
	agentProcd string
	//go:embed files/lxc-generator.sh
	lxcGenerator string
)

// script puts a file with a mode into the tree.
func (i *Image) script(at, content string, mode uint16) error {
	n, err := i.Tree.PutFile(at, []byte(content), i.Time)
	if err != nil {
		return fmt.Errorf("failed to write file %q: %w", at, err)
	}
	n.Mode = mode
	return nil
}

// agent makes the system start the agent of Incus, by systemd, OpenRC or procd.
func (i *Image) agent() error {
	_, _, sbin, err := i.Tree.Find("/sbin")
	if err != nil || sbin == nil || sbin.Child("init") == nil {
		return errors.New("failed to stat file \"/sbin/init\": the root file system has none")
	}
	init := sbin.Child("init")
	switch {
	case init.Kind == fstree.Symlink && strings.Contains(init.Target, "systemd"):
		return i.agentBySystemd()
	case init.Kind == fstree.Symlink && !strings.Contains(init.Target, "busybox"):
		i.warn("generator incus-agent: nothing is known of the init %q, so that the agent is left out", init.Target)
		return nil
	case init.Kind != fstree.Symlink && i.exists("/etc/openwrt_version"):
		return i.agentByProcd()
	}
	inittab, err := i.Tree.ReadFile("/etc/inittab", 1<<20)
	if err != nil {
		return fmt.Errorf("failed to open file %q: %w", "/etc/inittab", err)
	}
	for l := range strings.Lines(string(inittab)) {
		if strings.Contains(l, "sysinit") && strings.Contains(l, "openrc") {
			return i.agentByOpenRC()
		}
	}
	return errors.New("failed to determine init system")
}

func (i *Image) agentBySystemd() error {
	systemd := "/lib/systemd"
	if !i.exists(systemd) {
		systemd = "/usr/lib/systemd"
	}
	udev := "/lib/udev"
	if _, _, n, err := i.Tree.Find(udev); err != nil || n == nil {
		udev = "/usr/lib/udev"
	}
	return errors.Join(
		i.script(systemd+"/system/incus-agent.service", strings.ReplaceAll(agentUnit, "SYSTEMD", systemd), 0o644),
		i.script(systemd+"/incus-agent-setup", agentSetup, 0o755),
		i.script(udev+"/rules.d/99-incus-agent.rules", `SYMLINK=="virtio-ports/org.linuxcontainers.incus", TAG+="systemd", ENV{SYSTEMD_WANTS}+="incus-agent.service"`+"\n", 0o400))
}

func (i *Image) agentByOpenRC() error {
	return errors.Join(
		i.script("/etc/init.d/incus-agent", agentOpenRC, 0o755),
		i.script("/etc/init.d/incus-agent-setup", agentSetupOpenRC, 0o755),
		i.script("/usr/local/bin/incus-agent-setup", agentSetup, 0o755),
		i.symlink("/etc/init.d/incus-agent", "/etc/runlevels/default/incus-agent"),
		i.symlink("/etc/init.d/incus-agent-setup", "/etc/runlevels/default/incus-agent-setup"))
}

func (i *Image) agentByProcd() error {
	return errors.Join(
		i.script("/etc/init.d/incus-agent", agentProcd, 0o755),
		i.script("/usr/local/sbin/incus-agent-setup", agentSetup, 0o755),
		i.symlink("/etc/init.d/incus-agent", "/etc/rc.d/S05incus-agent"),
		i.symlink("/etc/init.d/incus-agent", "/etc/rc.d/K85incus-agent"))
}

// Finish makes the root file system fit to be the one of an instance: /dev is empty, what
// the system mounts on is there, and where systemd is, it finds what its units may not do
// in a container.
func (i *Image) Finish() error {
	if _, _, dev, err := i.Tree.Find("/dev"); err == nil && dev != nil && dev.Kind == fstree.Dir && dev.Len() > 0 {
		i.warn("/dev is emptied: it had %d entries, which instances make themselves", dev.Len())
		i.Tree.Delete("/dev/.", i.Time)
	}
	for _, d := range []struct {
		path string
		mode uint16
	}{{"/dev", 0o755}, {"/proc", 0o755}, {"/run", 0o755}, {"/sys", 0o755}, {"/tmp", 0o1777}} {
		if !i.exists(d.path) {
			if _, err := i.Tree.MakeDirs(d.path, d.mode, i.Time); err != nil {
				return err
			}
		}
	}
	if _, _, n, err := i.Tree.Find("/etc/systemd"); err != nil || n == nil {
		return nil
	}
	return i.script(path.Join("/etc/systemd/system-generators", "lxc"), lxcGenerator, 0o755)
}
