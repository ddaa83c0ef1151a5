package source

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus/definition"
)

// debootstrap runs the program of that name, which needs root.
func (g *getter) debootstrap() (*fstree.Tree, error) {
	program, err := exec.LookPath("debootstrap")
	if err != nil {
		return nil, fmt.Errorf("it is done by the program debootstrap, which this machine lacks: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the program debootstrap needs root: pack a root file system that it made with pack-incus")
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
	var early []string
	for _, set := range g.d.Packages.Sets {
		if set.Early && set.Action == "install" && g.d.For(set.Filter, definition.Untyped|definition.Typed) {
			early = append(early, set.Packages...)
		}
	}
	if len(early) > 0 {
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
	cmd := exec.CommandContext(g.ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out[max(0, len(out)-2000):])))
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
