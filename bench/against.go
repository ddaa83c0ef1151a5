package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// against puts another revision of cowl in the place of QEMU's programs: it is built from
// a checkout of its own, which is removed again. Ratios then say how much faster this
// tree is than that revision.
func (c *config) against(ctx context.Context, revision string) (err error) {
	hash, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "--verify", revision+"^{commit}").Output()
	if err != nil {
		return fmt.Errorf("-against %s: git knows no such revision: %w", revision, err)
	}
	c.revision = strings.TrimSpace(string(hash))
	parent, err := os.MkdirTemp("", "cowl-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(parent)
	tree := filepath.Join(parent, "tree")
	if err := command(ctx, "git", "worktree", "add", "--detach", tree, c.revision); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, command(context.WithoutCancel(ctx), "git", "worktree", "remove", "--force", tree))
	}()
	bin := filepath.Join(c.dir, "against")
	if c.original, err = build(ctx, tree, bin); err != nil {
		return err
	}
	c.server = filepath.Join(bin, "qemu-nbd")
	if err := os.Remove(c.server); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink("cowl", c.server)
}

// other is what stands in the column beside cowl.
func (c *config) other() string {
	if c.revision != "" {
		return c.revision
	}
	return "QEMU"
}

// goal is the ratio to reach beside QEMU; beside ourselves there is none.
func (c *config) goal(ratio float64) float64 {
	if c.revision != "" {
		return 0
	}
	return ratio
}
