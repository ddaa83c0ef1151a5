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

// incusRows pack a folder, $COWL_BENCH_TREE or that of Go, as distrobuilder does: its
// squashfs beside mksquashfs with the same options, without comparing it with the folder,
// and the disk of a virtual machine, which takes distrobuilder root and five copies, alone.
// What cowl makes has its digest and is on the disk (fsync) when it ends: mksquashfs leaves
// that to others.
func incusRows(c *config, tree string) []row {
	packer, definition, out := filepath.Join(filepath.Dir(c.ours), "cowl"), c.path("incus.yaml"), c.path("incus.out")
	var list []row
	for _, m := range []struct {
		name string
		goal float64
		args []string
	}{
		{"lz4", 1, []string{"-comp", "lz4"}}, {"gzip", 1.3, []string{"-comp", "gzip"}}, {"zstd", 1.5, []string{"-comp", "zstd"}}, {"xz", 1, []string{"-comp", "xz"}},
	} {
		list = append(list, row{name: "pack-incus, squashfs with " + m.name + " beside mksquashfs", goal: m.goal, out: out,
			prepare:  func() error { return os.Mkdir(out, 0o755) },
			original: append([]string{"mksquashfs", tree, filepath.Join(out, "rootfs.squashfs"), "-noappend", "-no-progress", "-no-exports", "-quiet", "-b", "1M"}, m.args...),
			ours:     []string{packer, "pack-incus", "--owner", "keep", "--no-verify", "--compression", m.name, definition, tree, out}})
	}
	for _, word := range []string{"gzip", "zstd"} {
		list = append(list, row{name: "pack-incus --vm, " + word, out: out,
			ours: []string{packer, "pack-incus", "--owner", "keep", "--vm", "--boot", "none", "--compression", word, definition, tree, out}})
	}
	return list
}

// measureIncus measures the rows about images for Incus. An older revision is not measured:
// it may not have the program.
func measureIncus(ctx context.Context, c *config) error {
	tree := os.Getenv("COWL_BENCH_TREE")
	if tree == "" {
		root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("go env GOROOT: %w", err)
		}
		tree = strings.TrimSpace(string(root))
	}
	list := selected(c, incusRows(c, tree))
	if len(list) == 0 || c.revision != "" {
		return nil
	}
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		fmt.Printf("\npack-incus left out: %v\n", err)
		return nil
	}
	text := "image: {distribution: bench, architecture: x86_64, serial: \"1\"}\nsource: {downloader: rootfs-http}\npackages: {manager: apt}\n"
	if err := os.WriteFile(c.path("incus.yaml"), []byte(text), 0o644); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(filepath.Dir(c.ours), "cowl-incus"), "./cmd/cowl-incus")
	build.Stderr, build.Env = os.Stderr, append(os.Environ(), "CGO_ENABLED=0")
	if err := build.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	var errs []error
	for _, r := range list {
		if err := measureRow(ctx, c, r); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.name, err))
		}
	}
	return errors.Join(errs...)
}
