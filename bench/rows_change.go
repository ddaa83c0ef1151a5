package main

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// makeChangeFixtures builds what the rows of commands that change images work on
// copies of.
func makeChangeFixtures(ctx context.Context, c *config) error {
	plain := c.path("plain.qcow2")
	for _, f := range []struct {
		name  string
		steps [][]string
	}{
		// 20,000 clusters scattered over the whole disk, one 4 KiB write in each.
		{"scattered.qcow2", [][]string{
			{"create", "-q", "-f", "qcow2", "-b", plain, "-F", "qcow2", "FILE"},
			{"bench", "-f", "qcow2", "-w", "-c", "20000", "-d", "32", "-S", "417792", "--pattern=90", "FILE"},
		}},
		// 60,000 clusters of 1 TiB, in an order that has nothing to do with the disk's.
		{"fragmented.qcow2", append([][]string{{"create", "-q", "-f", "qcow2", "FILE", "1T"}}, passes(10, 6000)...)},
	} {
		if _, err := os.Stat(c.path(f.name)); err == nil {
			continue
		}
		tmp := c.path(f.name + ".tmp")
		for _, args := range f.steps {
			for i, a := range args {
				if a == "FILE" {
					args[i] = tmp
				}
			}
			if err := command(ctx, c.qemu, args...); err != nil {
				return err
			}
		}
		if err := os.Rename(tmp, c.path(f.name)); err != nil {
			return err
		}
	}
	return nil
}

// passes are so many runs over a disk of 1 TiB, with count writes each, none in a
// cluster of another.
func passes(runs, count int) [][]string {
	var out [][]string
	step := (1 << 40) / count &^ 0xffff
	for i := range runs {
		// The passes go through the gaps in an order of their own.
		off := i * 7 % runs * (step / runs) &^ 0xffff
		out = append(out, []string{"bench", "-f", "qcow2", "-w", "-c", fmt.Sprint(count - 1), "-d", "32", "-o", fmt.Sprint(off), "-S", fmt.Sprint(step), "FILE"})
	}
	return out
}

// changeRows are the rows of commands that change images.
func changeRows(c *config) []row {
	ctx := context.Background()
	base, top, disk := c.path("base.tmp"), c.path("top.tmp"), c.path("disk.raw")
	copyFile := func(from, to string) error {
		return command(ctx, "cp", "--sparse=auto", "--reflink=never", c.path(from), to)
	}
	both := func(name string, goal float64, prepare func() error, args ...string) row {
		return row{name: name, goal: goal, original: append([]string{c.original}, args...), ours: append([]string{c.ours}, args...), prepare: prepare, out: top}
	}
	overlay := func() error {
		return errors.Join(copyFile("scattered.qcow2", top), copyFile("plain.qcow2", base),
			command(ctx, c.qemu, "rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", top))
	}
	snapshotted := func() error {
		return errors.Join(copyFile("plain.qcow2", top), command(ctx, c.qemu, "snapshot", "-c", "s", top))
	}
	list := []row{
		both("commit 20,000 scattered clusters", 2, overlay, "commit", "-q", "-f", "qcow2", top),
		both("rebase 20,000 scattered clusters, to the same contents in raw", 2, overlay, "rebase", "-f", "qcow2", "-b", disk, "-F", "raw", top),
		both("rebase 20,000 scattered clusters, to no backing file", 2, overlay, "rebase", "-f", "qcow2", "-b", "", top),
		both("convert 20,000 scattered clusters of an overlay to raw", 2, nil, "convert", "-f", "qcow2", "-O", "raw", c.path("scattered.qcow2"), top),
		both("snapshot, create", 1, func() error { return copyFile("plain.qcow2", top) }, "snapshot", "-c", "s", top),
		both("snapshot, apply", 1, snapshotted, "snapshot", "-a", "s", top),
		both("snapshot, delete", 1, snapshotted, "snapshot", "-d", "s", top),
		both("bench: 20,000 writes of 4 KiB after a snapshot, depth 32", 2, snapshotted, "bench", "-f", "qcow2", "-w", "-c", "20000", "-d", "32", "-S", "81920", top),
		both("bench: 20,000 writes of 4 KiB into an overlay over data, depth 32", 2.5, func() error {
			return command(ctx, c.qemu, "create", "-q", "-f", "qcow2", "-b", c.path("plain.qcow2"), "-F", "qcow2", top)
		}, "bench", "-f", "qcow2", "-w", "-c", "20000", "-d", "32", "-S", "81920", top),
		both("check 1 TiB, fragmented", 2, nil, "check", "-f", "qcow2", c.path("fragmented.qcow2")),
	}
	list[len(list)-1].out = "" // it writes nothing
	return list
}
