package qemuimg

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/cli/words"
)

// snapshotAction is what to do with a snapshot.
type snapshotAction uint8

const (
	snapshotNone snapshotAction = iota
	snapshotList
	snapshotApply
	snapshotCreate
	snapshotDelete
)

func snapshotCommand(c *call) *program.Command {
	action, name := snapshotNone, ""
	// choose declares an option that says what to do.
	choose := func(a snapshotAction, spelling, help string) program.Option {
		return program.Func(spelling, help, func(arg string) error {
			if action != snapshotNone {
				return program.Usagef("Cannot mix '-l', '-a', '-c', '-d'")
			}
			action, name = a, arg
			return nil
		})
	}
	return &program.Command{
		Name: "snapshot", Summary: "List or manipulate snapshots within image",
		Usage: []string{"[-f FMT | --image-opts] [-l | -a|-c|-d SNAPSHOT]",
			"[-U] [-q] [--object OBJDEF] FILENAME"},
		About: "Internal snapshots keep the disk as it was, in the same file. Nobody else may have\nthe image open while it is changed.",
		Options: []program.Option{c.helpOption(), c.quietOption(), c.formatOption(), c.imageOptsOption(), c.forceShareOption(),
			choose(snapshotList, "-l, --list", "list the snapshots (the default)"),
			choose(snapshotCreate, "-c, --create SNAPSHOT", "keep the disk as it is now under this name"),
			choose(snapshotApply, "-a, --apply SNAPSHOT", "make the disk what it was then; what it holds now is lost.\nSNAPSHOT is an id or a name"),
			choose(snapshotDelete, "-d, --delete SNAPSHOT", "remove the first snapshot of this name"),
			c.objectOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image"}},
		Examples: []string{"disk.qcow2", "-c before-update disk.qcow2", "-a before-update disk.qcow2"},
		Run:      func(context.Context, []string) int { return c.snapshot(action, name) },
	}
}

func (c *call) snapshot(action snapshotAction, name string) (code int) {
	if len(c.operands) != 1 {
		return c.usage("Expecting one image file name")
	}
	if action == snapshotNone {
		action = snapshotList
	}
	o := block.OpenOptions{Sharing: block.Sharing{Force: c.forceShare}}
	if action != snapshotList {
		o.Write, o.Unmap = true, true
	}
	img, err := c.open(c.image(c.operands[0]), o)
	if err != nil {
		return c.fail(err)
	}
	switch action {
	case snapshotList:
		code = c.listSnapshots(img)
	case snapshotCreate:
		code = c.createSnapshot(img, name)
	case snapshotApply:
		code = c.applySnapshot(img, name)
	case snapshotDelete:
		code = c.deleteSnapshot(img, name)
	}
	if err := c.close(img); err != nil && code == 0 {
		return c.fail(err)
	}
	return code
}

func (c *call) listSnapshots(img *block.Image) int {
	list, _, err := img.Snapshots().List(c.ctx)
	if err != nil {
		return c.fail(err)
	}
	if len(list) == 0 {
		return 0
	}
	return c.print(render.Snapshots(c.Stdout, list))
}

func (c *call) createSnapshot(img *block.Image, name string) int {
	req := driver.SnapshotRequest{Name: name, Date: time.Now().Truncate(time.Microsecond)}
	req.Name = name[:min(len(name), driver.MaxSnapshotName)]
	if _, err := img.Snapshots().Create(c.ctx, req); err != nil {
		return c.errorf("Could not create snapshot '%s': %s", name, snapshotReason(err))
	}
	return 0
}

func (c *call) applySnapshot(img *block.Image, name string) int {
	err := img.Snapshots().Apply(c.ctx, name)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, driver.ErrBitmaps):
		return c.errorf("Could not apply snapshot '%s': Device has active dirty bitmaps", name)
	}
	if _, ok, _ := img.Snapshots().List(c.ctx); !ok {
		return c.errorf("Could not apply snapshot '%s': Block driver does not support snapshots", name)
	}
	return c.errorf("Could not apply snapshot '%s': Failed to load snapshot: %s", name, snapshotReason(err))
}

// deleteSnapshot deletes by name only, unlike applySnapshot: so does QEMU.
func (c *call) deleteSnapshot(img *block.Image, name string) int {
	list, _, err := img.Snapshots().List(c.ctx)
	if err != nil {
		return c.fail(err)
	}
	for _, s := range list {
		if s.Name != name {
			continue
		}
		if err := img.Snapshots().Delete(c.ctx, s.ID, s.Name); err != nil {
			return c.errorf("Could not delete snapshot '%s': %s", name, snapshotReason(err))
		}
		return 0
	}
	return c.errorf("Could not delete snapshot '%s': snapshot not found", name)
}

// snapshotReason says why a snapshot operation failed, in the words of
// QEMU where QEMU has no more than an error number.
func snapshotReason(err error) string {
	switch {
	case errors.Is(err, driver.ErrNoSnapshot):
		return words.Strerror(syscall.ENOENT)
	case errors.Is(err, driver.ErrUnsupported):
		return words.Strerror(syscall.ENOTSUP)
	case errors.Is(err, driver.ErrInvalid):
		return words.Strerror(syscall.EINVAL)
	}
	var io *block.IOError
	if errors.As(err, &io) {
		err = io.Err
	}
	return words.Text(err)
}
