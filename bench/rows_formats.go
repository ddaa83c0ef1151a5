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

// A large disk takes the original minutes in some formats: they get a part of it.
const (
	largePart = 1024 // MiB
	smallPart = 256
	tinyPart  = 32 // for a format that QEMU reads by sectors
)

// formatRow is a disk format: rows into it and from it.
type formatRow struct {
	name     string
	format   string
	options  string // of -o
	compress bool
	part     int     // MiB of the disk
	into     float64 // goals
	from     float64
	exit     int    // exit code of the original that writes it, which is no failure
	make     maker  // of the image that is read; nil: the original converts
	needs    string // the program that make runs
}

// maker writes an image of a raw disk.
type maker func(ctx context.Context, raw, out string) error

// formatList are the formats of the table. QEMU 10 ends with exit code 1 after it wrote a compressed qcow.
var formatList = []formatRow{
	{name: "qcow", format: "qcow", part: smallPart, into: 20, from: 1.3},
	{name: "qcow, compressed", format: "qcow", compress: true, part: smallPart, into: 10, from: 2, exit: 1},
	{name: "vmdk, streamOptimized", format: "vmdk", options: "subformat=streamOptimized", part: smallPart, into: 5, from: 2},
	{name: "vdi", format: "vdi", part: largePart, into: 5, from: 1.3},
	{name: "qed", format: "qed", part: largePart, into: 2, from: 1.3},
	{name: "vhdx", format: "vhdx", part: largePart, into: 1.3, from: 1.3},
	{name: "vpc", format: "vpc", part: largePart, into: 1.3, from: 1.3},
	{name: "vmdk", format: "vmdk", part: largePart, into: 1.2, from: 1.3},
	{name: "vmdk, twoGbMaxExtentSparse", format: "vmdk", options: "subformat=twoGbMaxExtentSparse", part: largePart, into: 1.2, from: 1.3},
	{name: "vmdk, monolithicFlat", format: "vmdk", options: "subformat=monolithicFlat", part: largePart},
	{name: "vpc, fixed", format: "vpc", options: "subformat=fixed", part: largePart},
	{name: "vhdx, fixed", format: "vhdx", options: "subformat=fixed", part: largePart},
	{name: "vdi, static", format: "vdi", options: "static=on", part: largePart},
	{name: "parallels", format: "parallels", part: largePart, into: 1.1, from: 1.3},
	{name: "cloop", format: "cloop", part: largePart, from: 2, make: makeCloop, needs: "create_compressed_fs"},
	{name: "dmg, zlib", format: "dmg", part: largePart, from: 2, make: makeDmgZlib},
	{name: "dmg, bzip2", format: "dmg", part: smallPart, from: 2, make: makeDmgBzip2, needs: "bzip2"},
	{name: "bochs", format: "bochs", part: tinyPart, from: 1.3, make: makeBochs},
	{name: "sparseimage", format: "sparseimage", part: largePart, make: makeSparseimage},
	{name: "sparsebundle", format: "sparsebundle", part: largePart, make: makeSparsebundle},
	{name: "asif", format: "asif", part: largePart, make: makeASIF},
}

func (f formatRow) intoName() string {
	return fmt.Sprintf("formats: convert %d MiB of raw to %s", f.part, f.name)
}

func (f formatRow) fromName() string {
	return fmt.Sprintf("formats: convert %d MiB of %s to raw", f.part, f.name)
}

// measureFormats runs the rows about disk formats that were asked for. The images that are read are made only
// for these, and kept for the next run.
func measureFormats(ctx context.Context, c *config) error {
	for _, f := range formatList {
		into := c.only.MatchString(f.intoName()) && f.make == nil
		from := c.only.MatchString(f.fromName())
		if !into && !from {
			continue
		}
		raw := c.path(fmt.Sprintf("part%d.raw", f.part))
		if err := makePart(ctx, c.path("disk.raw"), raw, f.part); err != nil {
			return err
		}
		if into {
			r := f.intoRow(c, raw)
			if err := errors.Join(measureRow(ctx, c, r), removeExtents(r.out)); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
		if !from {
			continue
		}
		image, err := f.fixture(ctx, c, raw)
		if errors.Is(err, exec.ErrNotFound) {
			fmt.Printf("\n%s left out: %v\n", f.fromName(), err)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.fromName(), err)
		}
		out := c.path("out.img")
		args := []string{"convert", "-f", f.format, "-O", "raw", image, out}
		r := row{name: f.fromName(), goal: f.from, out: out, original: append([]string{c.original}, args...), ours: append([]string{c.ours}, args...)}
		if f.make != nil { // what QEMU reads of these depends on how it was built
			if _, err := timeCommand(ctx, c, r.original, 0); err != nil {
				fmt.Fprintf(os.Stderr, "%s: alone: %v\n", r.name, err)
				r.original, r.goal = nil, 0
			}
		}
		if err := measureRow(ctx, c, r); err != nil {
			return fmt.Errorf("%s: %w", f.fromName(), err)
		}
	}
	return measureFolder(ctx, c)
}

// measureFolder runs the row about a folder that is read as a disk with a FAT file system.
func measureFolder(ctx context.Context, c *config) error {
	dir, out := c.path("folder"), c.path("out.img")
	args := []string{"convert", "-f", "raw", "-O", "raw", "fat:" + dir, out}
	r := row{name: fmt.Sprintf("formats: convert a folder with %d MiB to raw (vvfat)", smallPart), goal: 1.3, out: out,
		original: append([]string{c.original}, args...), ours: append([]string{c.ours}, args...)}
	if !c.only.MatchString(r.name) {
		return nil
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := errors.Join(os.RemoveAll(dir+".tmp"), os.Mkdir(dir+".tmp", 0o755)); err != nil {
			return err
		}
		script := `cd "$1" && head -c "$2"M /dev/urandom | split -b 16M - part`
		if err := errors.Join(command(ctx, "sh", "-c", script, "sh", dir+".tmp", fmt.Sprint(smallPart)), os.Rename(dir+".tmp", dir)); err != nil {
			return err
		}
	}
	return measureRow(ctx, c, r)
}

// arguments are those of the command that converts into a format.
func (f formatRow) arguments(raw, out string) []string {
	args := []string{"convert", "-f", "raw", "-O", f.format}
	if f.compress {
		args = append(args, "-c")
	}
	if f.options != "" {
		args = append(args, "-o", f.options)
	}
	return append(args, raw, out)
}

func (f formatRow) intoRow(c *config, raw string) row {
	out := c.path("out.img")
	args := f.arguments(raw, out)
	r := row{name: f.intoName(), prepare: func() error { return removeExtents(out) }, goal: f.into, out: out, originalExit: f.exit, original: append([]string{c.original}, args...), ours: append([]string{c.ours}, args...)}
	if c.revision != "" {
		r.originalExit = 0
	}
	return r
}

// removeExtents removes the files that an image names, beside it: out-flat.img, out-s001.img.
func removeExtents(out string) (err error) {
	ext := filepath.Ext(out)
	names, _ := filepath.Glob(strings.TrimSuffix(out, ext) + "-*" + ext)
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// fixture returns the name of an image of the disk, which is made unless it is there.
func (f formatRow) fixture(ctx context.Context, c *config, raw string) (string, error) {
	if f.needs != "" {
		if _, err := exec.LookPath(f.needs); err != nil {
			return "", err
		}
	}
	name := strings.NewReplacer(", ", "-", " ", "-").Replace(f.name)
	image := c.path("formats-" + name + "." + f.format)
	if _, err := os.Stat(image); !errors.Is(err, os.ErrNotExist) {
		return image, err
	}
	// The flat extents of a description keep the name under which they were made.
	if f.make == nil {
		_, err := timeCommand(ctx, c, append([]string{c.qemu}, f.arguments(raw, image)...), f.exit)
		if err != nil {
			return "", errors.Join(err, os.Remove(image))
		}
		return image, nil
	}
	tmp := image + ".tmp"
	if err := f.make(ctx, raw, tmp); err != nil {
		return "", err
	}
	return image, os.Rename(tmp, image)
}

func makeCloop(ctx context.Context, raw, out string) error {
	return command(ctx, "create_compressed_fs", "-B", "65536", "-L", "6", raw, out)
}
