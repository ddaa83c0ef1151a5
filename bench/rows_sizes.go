package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// sizeRow is a row of what costs grow with: starting, sizes of disks, chains, snapshots.
type sizeRow struct {
	name string
	make string // the name of the image in sizeImages, "" for none
	goal float64
	args []string // IMAGE and OUT stand for the image and for the output
}

// sparse disks have a cluster of data in each thousandth.
const sparseClusters = 1000

// sizeImages make the images that rows read, by their names.
var sizeImages = map[string]func(ctx context.Context, c *config, image string) error{
	"empty":         func(ctx context.Context, c *config, image string) error { return c.makeEmpty(ctx, image, "1G") },
	"1 GiB":         func(ctx context.Context, c *config, image string) error { return c.makeSparse(ctx, image, 1<<30) },
	"10 GiB":        func(ctx context.Context, c *config, image string) error { return c.makeSparse(ctx, image, 10<<30) },
	"1 TiB":         func(ctx context.Context, c *config, image string) error { return c.makeSparse(ctx, image, 1<<40) },
	"63 TiB":        func(ctx context.Context, c *config, image string) error { return c.makeSparse(ctx, image, 63<<40) },
	"chain 1":       func(ctx context.Context, c *config, image string) error { return c.makeChain(ctx, image, 1) },
	"chain 10":      func(ctx context.Context, c *config, image string) error { return c.makeChain(ctx, image, 10) },
	"chain 100":     func(ctx context.Context, c *config, image string) error { return c.makeChain(ctx, image, 100) },
	"snapshots 1":   func(ctx context.Context, c *config, image string) error { return c.makeSnapshots(ctx, image, 1) },
	"snapshots 100": func(ctx context.Context, c *config, image string) error { return c.makeSnapshots(ctx, image, 100) },
	"snapshots 10000": func(ctx context.Context, c *config, image string) error {
		return c.makeSnapshots(ctx, image, 10_000)
	},
}

// sizeRows are the rows of sizes.
func sizeRows() []sizeRow {
	list := []sizeRow{
		{name: "start: --version", args: []string{"--version"}},
		{name: "start: info of an empty qcow2", make: "empty", goal: 1, args: []string{"info", "IMAGE"}},
	}
	for _, size := range []string{"1 GiB", "10 GiB", "1 TiB", "63 TiB"} {
		bytes := map[string]string{"1 GiB": "1G", "10 GiB": "10G", "1 TiB": "1T", "63 TiB": "63T"}[size]
		list = append(list,
			sizeRow{name: "sizes: create " + size, goal: 1, args: []string{"create", "-q", "-f", "qcow2", "OUT", bytes}},
			sizeRow{name: "sizes: info of " + size, make: size, goal: 1, args: []string{"info", "IMAGE"}},
			sizeRow{name: fmt.Sprintf("sizes: map %s with %d clusters", size, sparseClusters), make: size, goal: 1, args: []string{"map", "-f", "qcow2", "--output=json", "IMAGE"}},
			sizeRow{name: fmt.Sprintf("sizes: check %s with %d clusters", size, sparseClusters), make: size, goal: 1, args: []string{"check", "-f", "qcow2", "IMAGE"}},
			sizeRow{name: fmt.Sprintf("sizes: convert %s with %d clusters to qcow2", size, sparseClusters), make: size, goal: 1, args: []string{"convert", "-f", "qcow2", "-O", "qcow2", "IMAGE", "OUT"}},
		)
	}
	for _, n := range []int{1, 10, 100} {
		chain := fmt.Sprint("chain ", n)
		list = append(list,
			sizeRow{name: fmt.Sprintf("sizes: info of a chain of %d", n), make: chain, goal: 1, args: []string{"info", "--backing-chain", "IMAGE"}},
			sizeRow{name: fmt.Sprintf("sizes: map a chain of %d", n), make: chain, goal: 1, args: []string{"map", "-f", "qcow2", "--output=json", "IMAGE"}},
			sizeRow{name: fmt.Sprintf("sizes: convert a chain of %d to raw", n), make: chain, goal: 1, args: []string{"convert", "-f", "qcow2", "-O", "raw", "IMAGE", "OUT"}},
		)
	}
	for _, n := range []int{1, 100, 10_000} {
		image := fmt.Sprint("snapshots ", n)
		list = append(list,
			sizeRow{name: fmt.Sprintf("sizes: list %d snapshots", n), make: image, goal: 1, args: []string{"snapshot", "-l", "IMAGE"}},
			sizeRow{name: fmt.Sprintf("sizes: check %d snapshots", n), make: image, goal: 1, args: []string{"check", "-f", "qcow2", "IMAGE"}},
		)
	}
	return list
}

// measureSizes runs the rows of sizes that were asked for. Their images are made only for
// these, by QEMU, and kept for the next run.
func measureSizes(ctx context.Context, c *config) error {
	dir, out := c.path("sizes"), c.path("out.img")
	for _, s := range sizeRows() {
		if !c.only.MatchString(s.name) {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		image := filepath.Join(dir, s.make+".qcow2")
		if s.make != "" {
			if err := made(image, func(tmp string) error { return sizeImages[s.make](ctx, c, tmp) }); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		r := row{name: s.name, goal: s.goal, original: []string{c.original}, ours: []string{c.ours}}
		for _, a := range s.args {
			switch a {
			case "IMAGE":
				a = image
			case "OUT":
				a, r.out = out, out
			}
			r.original, r.ours = append(r.original, a), append(r.ours, a)
		}
		if err := measureRow(ctx, c, r); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// made makes a file by way of another name, unless it is there.
func made(file string, create func(tmp string) error) error {
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	tmp := file + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := create(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

func (c *config) makeEmpty(ctx context.Context, image, size string) error {
	return command(ctx, c.qemu, "create", "-q", "-f", "qcow2", image, size)
}

// makeSparse makes a disk of so many bytes with some clusters of data.
func (c *config) makeSparse(ctx context.Context, image string, size int64) error {
	if err := c.makeEmpty(ctx, image, fmt.Sprint(size)); err != nil {
		return err
	}
	args := []string{"-f", "qcow2"}
	for i := range int64(sparseClusters) {
		args = append(args, "-c", fmt.Sprint("write -q ", size/sparseClusters*i&^0xffff, " 64k"))
	}
	return command(ctx, "qemu-io", append(args, image)...)
}

// makeChain makes a chain of n images, each with some clusters of its own. Those below are
// beside the one on top.
func (c *config) makeChain(ctx context.Context, image string, n int) error {
	const size = 10 << 30
	below := ""
	for i := range n {
		name := fmt.Sprintf("%s.%d", image, i)
		if i == n-1 {
			name = image
		}
		args := []string{"create", "-q", "-f", "qcow2"}
		if below != "" {
			args = append(args, "-b", below, "-F", "qcow2")
		}
		if err := command(ctx, c.qemu, append(args, name, fmt.Sprint(size))...); err != nil {
			return err
		}
		err := command(ctx, c.qemu, "bench", "-f", "qcow2", "-w", "-c", "100", "-d", "32", "-s", "65536", "-o", fmt.Sprint(i<<16), "-S", fmt.Sprint(64<<20), "--pattern", fmt.Sprint(i+1), name)
		if err != nil {
			return err
		}
		below = name
	}
	return nil
}

// makeSnapshots makes an image with so many snapshots.
func (c *config) makeSnapshots(ctx context.Context, image string, n int) error {
	if n > 1000 {
		return makeSnapshotTable(image, n)
	}
	if err := c.makeEmpty(ctx, image, "64M"); err != nil {
		return err
	}
	for i := range n {
		if err := command(ctx, c.qemu, "snapshot", "-c", fmt.Sprint("snapshot ", i), image); err != nil {
			return err
		}
	}
	return nil
}
