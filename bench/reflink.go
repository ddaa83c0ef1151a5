package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// reflinkRows measure conversion that shares blocks, on file systems that can,
// mounted from a file. Only root can mount; others get a line that says so.
func reflinkRows(ctx context.Context, c *config) error {
	if os.Getuid() != 0 {
		fmt.Println("\nreflink rows left out: mounting a file system needs root")
		return nil
	}
	for _, fs := range []string{"btrfs", "xfs"} {
		name := "convert raw to raw by reflink on " + fs
		if !c.only.MatchString(name) {
			continue
		}
		if _, err := exec.LookPath("mkfs." + fs); err != nil {
			fmt.Printf("\n%s left out: %v\n", name, err)
			continue
		}
		if err := reflinkOn(ctx, c, fs, name); err != nil {
			return err
		}
	}
	return nil
}

func reflinkOn(ctx context.Context, c *config, fs, name string) (err error) {
	img, dir := c.path(fs+".img"), c.path(fs)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer os.Remove(img)
	for _, args := range [][]string{
		{"truncate", "-s", "6G", img},
		{"mkfs." + fs, "-q", img},
		{"mount", "-o", "loop", img, dir},
	} {
		if err := command(ctx, args[0], args[1:]...); err != nil {
			return err
		}
	}
	defer func() {
		if e := command(context.WithoutCancel(ctx), "umount", dir); err == nil {
			err = e
		}
	}()
	disk, out := dir+"/disk.raw", dir+"/out"
	if err := command(ctx, "cp", "--sparse=always", c.path("disk.raw"), disk); err != nil {
		return err
	}
	if err := command(ctx, "sync", "-f", disk); err != nil {
		return err
	}
	for _, format := range []string{"raw", "qcow2"} {
		r := row{name: name, out: out, ours: []string{c.ours, "convert", "-f", "raw", "-O", format, "--reflink=always", disk, out}}
		if format != "raw" {
			r.name = fmt.Sprintf("convert raw to %s by reflink on %s", format, fs)
		}
		if err := measureRow(ctx, c, r); err != nil {
			return err
		}
	}
	return nil
}
