package guest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/incus/definition"
)

// manager is a package manager by its command lines, without packages.
type manager struct {
	install, remove, refresh, update, clean []string
}

// managerOf returns a package manager by its name in definitions.
func managerOf(name string) (manager, bool) {
	words := strings.Fields
	switch name {
	case "apk":
		return manager{words("apk --no-cache add"), words("apk --no-cache del --rdepends"), words("apk --no-cache update"), words("apk --no-cache upgrade"), nil}, true
	case "apt":
		return manager{words("apt-get -y install"), words("apt-get -y remove --auto-remove"), words("apt-get -y update"), words("apt-get -y dist-upgrade"), words("apt-get -y clean")}, true
	case "dnf":
		return manager{words("dnf -y install --nobest"), words("dnf -y remove"), words("dnf -y makecache"), words("dnf -y upgrade --nobest"), words("dnf -y clean all")}, true
	case "yum":
		return manager{words("yum -y install"), words("yum -y remove"), words("yum -y makecache"), words("yum -y update"), words("yum -y clean all")}, true
	case "zypper":
		const z = "zypper --non-interactive --gpg-auto-import-keys "
		return manager{words(z + "install --allow-downgrade --replacefiles"), words(z + "remove"), words(z + "refresh"), words(z + "update"), words(z + "clean -a")}, true
	case "pacman":
		return manager{words("pacman --noconfirm -S --needed"), words("pacman --noconfirm -Rcs"), words("pacman --noconfirm -Syy"), words("pacman --noconfirm -Su"), words("find /var/cache/pacman/pkg -mindepth 1 -delete")}, true
	case "xbps":
		return manager{words("xbps-install --yes"), words("xbps-remove --yes --recursive --remove-orphans"), words("xbps-install --sync"),
			[]string{"sh", "-c", "xbps-install --yes --update && xbps-install --yes --update"}, words("xbps-remove --yes --clean-cache")}, true
	case "opkg":
		return manager{words("opkg install"), words("opkg remove"), []string{"sh", "-c", "mkdir -p /var/lock && opkg update"}, nil, words("rm -rf /tmp/opkg-lists")}, true
	case "portage":
		return manager{words("emerge --autounmask-continue"), words("emerge --unmerge"), nil, words("emerge --update @world"), nil}, true
	case "egoportage":
		return manager{words("emerge --autounmask-continue --quiet-build=y"), words("emerge --unmerge"), words("ego sync"), words("emerge --update @world"), nil}, true
	case "equo":
		return manager{words("equo install"), words("equo remove"), words("equo update"), words("equo upgrade"), words("equo cleanup")}, true
	case "anise":
		return manager{words("anise install --skip-config-protect"), words("anise uninstall --skip-config-protect"), words("anise repo update --force"), words("anise upgrade --sync-repos --skip-config-protect"), words("anise cleanup --purge-repos")}, true
	case "slackpkg":
		const s = "slackpkg -batch=on -default_answer=y "
		return manager{words(s + "install"), words(s + "remove"), words(s + "update"), words(s + "upgrade-all"), nil}, true
	}
	return manager{}, false
}

// custom is a package manager that a definition describes.
func custom(c *definition.CustomManager) manager {
	line := func(cmd definition.Command) []string {
		return slices.Concat([]string{cmd.Command}, c.Flags, cmd.Flags)
	}
	return manager{line(c.Install), line(c.Remove), line(c.Refresh), line(c.Update), line(c.Clean)}
}

func (g *Guest) manage(ctx context.Context, command []string, more ...string) error {
	if command == nil {
		return nil
	}
	return g.Run(ctx, slices.Concat(command, more)...)
}

// work is what Prepare and Finish do for one definition.
type work struct {
	*Guest
	d   *definition.Definition
	say func(text string, fields ...string)
}

// Environment returns the environment of programs: what distrobuilder gives them, but
// nothing of the host's.
func Environment(d *definition.Definition) []string {
	var env []string
	set := func(key, value string) {
		i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, key+"=") })
		if i >= 0 {
			env = slices.Delete(env, i, i+1)
		}
		env = append(env, key+"="+value)
	}
	if !d.Environment.ClearDefaults {
		set("PATH", "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
		set("SHELL", "/bin/sh")
		set("TERM", "xterm")
		set("DEBIAN_FRONTEND", "noninteractive")
	}
	for _, v := range d.Environment.Variables {
		if d.For(v.Filter, definition.Untyped|definition.Typed) && v.Key != "" && !strings.ContainsAny(v.Key, "=\x00") {
			set(v.Key, v.Value)
		}
	}
	return env
}

// Prepare does what a definition says before its files are made: repositories, the actions
// post-unpack, packages with the actions post-update, and the actions post-packages. say,
// where not nil, is told what is about to be done.
func (g *Guest) Prepare(ctx context.Context, d *definition.Definition, a definition.Accept, say func(text string, fields ...string)) error {
	w := newWork(g, d, say)
	w.say("Managing repositories")
	if err := w.repositories(ctx, a); err != nil {
		return fmt.Errorf("failed to manage repositories: %w", err)
	}
	if err := w.actions(ctx, "post-unpack", a); err != nil {
		return err
	}
	w.say("Managing packages")
	if err := w.packages(ctx, a); err != nil {
		return fmt.Errorf("failed to manage packages: %w", err)
	}
	return w.actions(ctx, "post-packages", a)
}

// Finish runs the actions post-files.
func (g *Guest) Finish(ctx context.Context, d *definition.Definition, a definition.Accept, say func(text string, fields ...string)) error {
	return newWork(g, d, say).actions(ctx, "post-files", a)
}

func newWork(g *Guest, d *definition.Definition, say func(text string, fields ...string)) *work {
	if say == nil {
		say = func(string, ...string) {}
	}
	return &work{g, d, say}
}

func (w *work) actions(ctx context.Context, trigger string, a definition.Accept) error {
	w.say("Running hooks", "trigger", trigger)
	list, err := w.d.ActionsFor(trigger, a)
	if err != nil {
		return err
	}
	for _, action := range list {
		if err := w.Script(ctx, action.Action); err != nil {
			return fmt.Errorf("failed to run %s: %w", trigger, err)
		}
	}
	return nil
}

func (w *work) manager() (manager, error) {
	if c := w.d.Packages.CustomManager; c != nil {
		return custom(c), nil
	}
	name := strings.TrimSpace(w.d.Packages.Manager)
	m, ok := managerOf(name)
	if !ok {
		return m, fmt.Errorf("packages.manager %q is not supported", name)
	}
	return m, nil
}

// packages installs and removes sets of packages. Neighbours with one action and the same
// flags are one call.
func (w *work) packages(ctx context.Context, a definition.Accept) error {
	var sets []definition.PackageSet
	for _, s := range w.d.Packages.Sets {
		if !w.d.For(s.Filter, a) {
			continue
		}
		if last := len(sets) - 1; last >= 0 && sets[last].Action == s.Action && slices.Equal(sets[last].Flags, s.Flags) {
			sets[last].Packages = slices.Concat(sets[last].Packages, s.Packages)
			continue
		}
		sets = append(sets, s)
	}
	if len(sets) == 0 && !w.d.Packages.Update {
		return nil
	}
	m, err := w.manager()
	if err != nil {
		return err
	}
	if err := w.manage(ctx, m.refresh); err != nil {
		return fmt.Errorf("failed to refresh: %w", err)
	}
	if w.d.Packages.Update {
		if err := w.manage(ctx, m.update); err != nil {
			return fmt.Errorf("failed to update: %w", err)
		}
		if err := w.actions(ctx, "post-update", a); err != nil {
			return err
		}
	}
	for _, s := range sets {
		command := m.install
		if s.Action == "remove" {
			command = m.remove
		}
		if err := w.manage(ctx, command, slices.Concat(s.Flags, s.Packages)...); err != nil {
			return fmt.Errorf("failed to %s packages: %w", s.Action, err)
		}
	}
	if w.d.Packages.Cleanup {
		if err := w.manage(ctx, m.clean); err != nil {
			return fmt.Errorf("failed to clean up packages: %w", err)
		}
	}
	return nil
}

func (w *work) repositories(ctx context.Context, a definition.Accept) error {
	for _, r := range w.d.Packages.Repositories {
		if !w.d.For(r.Filter, a) {
			continue
		}
		for _, field := range []*string{&r.URL, &r.Key} {
			var err error
			if *field, err = w.d.Render(*field); err != nil {
				return fmt.Errorf("failed to render template: %w", err)
			}
		}
		if err := w.repository(ctx, r); err != nil {
			return fmt.Errorf("error for repository %s: %w", r.Name, err)
		}
	}
	return nil
}

// repository makes one repository known.
func (w *work) repository(ctx context.Context, r definition.Repository) error {
	name := r.Name
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return errors.New("invalid repository name")
	}
	switch strings.TrimSpace(w.d.Packages.Manager) {
	case "apt":
		file := "/etc/apt/sources.list.d/" + strings.TrimSuffix(name, ".list") + ".list"
		if name == "sources.list" {
			file = "/etc/apt/sources.list"
		}
		if err := w.put(ctx, file, strings.TrimRight(r.URL, "\n")+"\n"); err != nil || r.Key == "" {
			return err
		}
		return w.put(ctx, "/etc/apt/trusted.gpg.d/"+strings.TrimSuffix(name, ".list")+".asc", r.Key)
	case "apk":
		if r.URL != "" {
			if err := w.Run(ctx, "sh", "-c", `printf '%s\n' "$1" >>/etc/apk/repositories`, "sh", r.URL); err != nil {
				return err
			}
		}
		if r.Key == "" {
			return nil
		}
		return w.put(ctx, "/etc/apk/keys/"+name, r.Key)
	case "dnf", "yum":
		text := fmt.Sprintf("[%[1]s]\nname=%[1]s\nbaseurl=%[2]s\nenabled=1\n", name, r.URL)
		if r.Key != "" {
			key := "/etc/pki/rpm-gpg/RPM-GPG-KEY-" + name
			if err := w.put(ctx, key, r.Key); err != nil {
				return err
			}
			text += "gpgcheck=1\ngpgkey=file://" + key + "\n"
		}
		return w.put(ctx, "/etc/yum.repos.d/"+name+".repo", text)
	case "zypper":
		if r.URL == "" {
			return errors.New("invalid repository url")
		}
		return w.Run(ctx, "zypper", "ar", "--refresh", "--check", r.URL, name)
	case "anise":
		return w.put(ctx, "/etc/anise/repos.conf.d/"+strings.TrimSuffix(name, ".yml")+".yml", r.URL)
	case "equo":
		if r.Type == "enman" {
			return w.Run(ctx, "enman", "add", name)
		}
		return w.Run(ctx, "equo", "repo", "add", "--repo", r.URL, "--pkg", r.URL, name)
	}
	return errors.New("the package manager takes no repositories from a definition")
}

// put writes a file in the root file system.
func (w *work) put(ctx context.Context, path, text string) error {
	return w.Run(ctx, "sh", "-c", `mkdir -p "${1%/*}" && printf '%s' "$2" >"$1"`, "sh", path, text)
}
