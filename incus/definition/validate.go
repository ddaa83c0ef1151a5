package definition

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The words that fields take, in the order in which messages list them.
func downloaders() []string {
	return []string{"almalinux-http", "alpaquita-http", "alpinelinux-http", "alt-http", "apertis-http", "archlinux-http", "busybox", "centos-http",
		"springdalelinux-http", "debootstrap", "rpmbootstrap", "fedora-http", "gentoo-http", "ubuntu-http", "sabayon-http", "docker-http",
		"oraclelinux-http", "openeuler-http", "opensuse-http", "openwrt-http", "plamolinux-http", "voidlinux-http", "funtoo-http", "rootfs-http",
		"rockylinux-http", "vyos-http", "slackware-http", "nixos-http"}
}

func managers() []string {
	return []string{"apk", "apt", "dnf", "egoportage", "opkg", "pacman", "portage", "yum", "equo", "xbps", "zypper", "anise", "slackpkg"}
}

func generators() []string {
	return []string{"dump", "copy", "template", "hostname", "hosts", "remove", "cloud-init", "incus-agent", "fstab"}
}

func triggers() []string {
	return []string{"post-files", "post-packages", "post-unpack", "post-update"}
}

// oneOf fails for a word that is not in the list. Messages are those of distrobuilder.
func oneOf(field, word string, list []string) error {
	if slices.Contains(list, word) {
		return nil
	}
	return fmt.Errorf("%s must be one of %v", field, list)
}

// validate checks the definition, in the order of distrobuilder, so that the first of
// several mistakes is the same one, and computes the names of the architecture.
func (d *Definition) validate() error {
	if strings.TrimSpace(d.Image.Distribution) == "" {
		return errors.New("image.distribution may not be empty")
	}
	if err := oneOf("source.downloader", strings.TrimSpace(d.Source.Downloader), downloaders()); err != nil {
		return err
	}
	if err := d.Packages.validate(); err != nil {
		return err
	}
	for _, f := range d.Files {
		if err := oneOf("files.*.generator", strings.TrimSpace(f.Generator), generators()); err != nil {
			return err
		}
	}
	if m := strings.TrimSpace(d.Mappings.ArchitectureMap); m != "" {
		if err := oneOf("mappings.architecture_map", m, mapNames[:]); err != nil {
			return err
		}
	}
	for _, a := range d.Actions {
		if err := oneOf("actions.*.trigger", a.Trigger, triggers()); err != nil {
			return err
		}
	}
	for _, s := range d.Packages.Sets {
		if err := oneOf("packages.*.set.*.action", s.Action, []string{"install", "remove"}); err != nil {
			return err
		}
	}
	mapped, err := d.mappedArchitecture()
	if err != nil {
		return fmt.Errorf("failed to get mapped architecture: failed to translate the architecture name: %w", err)
	}
	arch, ok := findArchitecture(d.Image.Architecture)
	if !ok {
		return fmt.Errorf("failed to get architecture ID: architecture isn't supported: %s", d.Image.Architecture)
	}
	d.Image.ArchitectureMapped, d.Image.ArchitectureKernel = mapped, arch.kernel
	d.Image.ArchitecturePersonality = fmt.Sprintf("linux%d", arch.bits)
	return nil
}

func (p *Packages) validate() error {
	m := p.CustomManager
	switch {
	case p.Manager != "":
		if err := oneOf("packages.manager", strings.TrimSpace(p.Manager), managers()); err != nil {
			return err
		}
		if m != nil {
			return errors.New("cannot have both packages.manager and packages.custom_manager set")
		}
		return nil
	case m == nil:
		return errors.New("packages.manager or packages.custom_manager needs to be set")
	}
	for _, c := range []struct {
		name string
		Command
	}{{"a clean", m.Clean}, {"an install", m.Install}, {"a remove", m.Remove}, {"a refresh", m.Refresh}, {"an update", m.Update}} {
		if c.Command.Command == "" {
			return fmt.Errorf("packages.custom_manager requires %s command", c.name)
		}
	}
	return nil
}
