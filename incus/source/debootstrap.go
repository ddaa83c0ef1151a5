package source

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus/definition"
)

// program finds a program of the host that makes a root file system, which needs root.
func program(names ...string) (string, error) {
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if os.Geteuid() != 0 {
			return "", fmt.Errorf("the program %s needs root: pack a root file system that it made with pack-incus", name)
		}
		return path, nil
	}
	return "", fmt.Errorf("it is done by the program %s, which this machine lacks: %w", strings.Join(names, " or "), exec.ErrNotFound)
}

// run runs a program, and tells the end of what it printed where it fails.
func (g *getter) run(program string, args ...string) error {
	cmd := exec.CommandContext(g.ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	for _, name := range []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy"} { // how to reach servers
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.WaitDelay = 10 * time.Second // for the output of its children, once it was ended
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out[max(0, len(out)-2000):])))
	}
	return nil
}

// early lists the packages that are installed or removed while the root file system is made.
func (g *getter) early(action string) (list []string) {
	for _, set := range g.d.Packages.Sets {
		if set.Early && set.Action == action && g.d.For(set.Filter, definition.Untyped|definition.Typed) {
			list = append(list, set.Packages...)
		}
	}
	return list
}

// rpmbootstrap runs dnf or yum, with the text of source.url as the file of repositories.
func (g *getter) rpmbootstrap() (*fstree.Tree, error) {
	manager, err := program("dnf", "yum")
	if err != nil {
		return nil, err
	}
	if g.url == "" {
		return nil, errors.New("source.url must have the text of a file for yum.repos.d")
	}
	release, err := part("image.release", g.d.Image.Release)
	if err != nil {
		return nil, err
	}
	repos, root := filepath.Join(g.Work, "repos"), filepath.Join(g.Work, "rpmbootstrap")
	if err := os.MkdirAll(repos, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(repos, "source.repo"), []byte(g.url+"\n"), 0o644); err != nil {
		return nil, err
	}
	args := []string{"--installroot=" + root, "--releasever=" + release, "--setopt=reposdir=" + repos, "install", "-y"}
	for _, p := range g.early("remove") {
		args = append(args, "--exclude="+p)
	}
	args = append(args, "yum", "dnf")
	for _, c := range g.d.Source.Components {
		if c, err = g.d.Render(c); err != nil {
			return nil, err
		}
		args = append(args, c)
	}
	if err := g.run(manager, append(args, g.early("install")...)...); err != nil {
		return nil, err
	}
	return fstree.FromDir(root, g.Tree)
}

// debootstrap runs the program of that name.
func (g *getter) debootstrap() (*fstree.Tree, error) {
	bootstrap, err := program("debootstrap")
	if err != nil {
		return nil, err
	}
	s := g.d.Source
	suite, err := part("image.release", g.d.Image.Release)
	if s.Suite != "" {
		suite, err = part("source.suite", s.Suite)
	}
	if err != nil {
		return nil, err
	}
	var args []string
	if s.Variant != "" {
		args = append(args, "--variant="+s.Variant)
	}
	if g.d.Image.ArchitectureMapped != "" {
		args = append(args, "--arch="+g.d.Image.ArchitectureMapped)
	}
	if len(s.Components) > 0 {
		args = append(args, "--components="+strings.Join(s.Components, ","))
	}
	if early := g.early("install"); len(early) > 0 {
		args = append(args, "--include="+strings.Join(early, ","))
	}
	switch signatures, err := g.secure("https://" + s.Suite); { // the program verifies by itself
	case err != nil:
		return nil, err
	case s.SkipVerification:
		args = append(args, "--no-check-gpg")
	case signatures:
		file := filepath.Join(g.Work, "keyring.gpg")
		if err := g.keys.write(file); err != nil {
			return nil, err
		}
		args = append(args, "--keyring="+file)
	}
	root := filepath.Join(g.Work, "debootstrap")
	args = append(args, suite, root)
	if g.url != "" {
		args = append(args, g.url)
	}
	if s.SameAs != "" {
		same, err := part("source.same_as", s.SameAs)
		if err != nil {
			return nil, err
		}
		if g.url == "" {
			return nil, errors.New("source.same_as needs source.url")
		}
		args = append(args, "/usr/share/debootstrap/scripts/"+same)
	}
	if err := g.run(bootstrap, args...); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(filepath.Join(root, "var/cache/apt/archives")); err != nil {
		return nil, err
	}
	return fstree.FromDir(root, g.Tree)
}

// write writes the keys for programs.
func (k *keyring) write(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for _, e := range k.list {
		err = errors.Join(err, e.Serialize(f))
	}
	return errors.Join(err, f.Close())
}
