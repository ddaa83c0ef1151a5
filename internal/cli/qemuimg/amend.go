package qemuimg

import (
	"context"
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/ops"
)

func amendCommand(c *call) *program.Command {
	var list optionList
	force := false
	return &program.Command{
		Name: "amend", Summary: "Update format-specific options of the image",
		Usage: []string{"[-f FMT | --image-opts] [-t CACHE] [--force] [-p] [-q]",
			"[--object OBJDEF] -o OPTIONS FILENAME"},
		About: "Changes features of an image in place; what is on the disk stays as it is.\n'-f FMT -o help' lists the options of a format.",
		Options: []program.Option{c.helpOption(), c.quietOption(), c.progressOption(),
			program.Func("-o, --options OPTIONS", "what to change, NAME=VALUE,…; 'help' lists the options", list.add),
			c.formatOption(), c.imageOptsOption(),
			c.cacheOption("-t, --cache CACHE", "the cache mode for FILENAME (default: writeback)"),
			program.Flag(&force, "--force", "allow what may make the image inaccessible: to erase the last key slot,\nto overwrite one that is in use"),
			c.objectOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image to change"}},
		Examples: []string{"-o compat=1.1,lazy_refcounts=on disk.qcow2", "-o refcount_bits=64 disk.qcow2"},
		Run: func(context.Context, []string) int {
			if !list.given() {
				return c.usage("Must specify options (-o)")
			}
			if err := c.amend(&list, force); err != nil {
				return c.fail(err)
			}
			return 0
		},
	}
}

func (c *call) amend(list *optionList, force bool) (err error) {
	progress, stop := c.startProgress(1)
	defer func() { stop(err != nil) }()
	if c.hasFormat && list.wantsHelp() {
		drv := c.reg.Lookup(c.format)
		if drv == nil {
			return fmt.Errorf("Unknown file format '%s'", c.format)
		}
		return c.amendHelp(drv)
	}
	if len(c.operands) != 1 {
		return errors.New("Expecting one image file name")
	}
	cache, ok := cacheMode(c.cache)
	if !ok {
		return fmt.Errorf("Invalid cache option: %s", c.cache)
	}
	img, err := c.open(c.image(c.operands[0]), block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Cache: cache})
	if err != nil {
		return err
	}
	defer func() {
		if e := c.close(img); err == nil {
			err = e
		}
	}()
	if list.wantsHelp() {
		return c.amendHelp(img.Tree().Driver())
	}
	job := ops.AmendJob{Image: img, Force: force, Progress: progress.Report}
	if _, err := ops.AmendSchema(img.Tree().Driver()); err != nil {
		return err
	}
	if job.Options, err = list.dict(); err != nil {
		return err
	}
	err = ops.Amend(c.ctx, job)
	var io *block.IOError
	if errors.As(err, &io) && io.Op == "resize" {
		return io.Err
	}
	return err
}

// amendHelp prints the options for amending images of a format.
func (c *call) amendHelp(drv driver.Driver) error {
	schema, err := ops.AmendSchema(drv)
	if err != nil {
		return err
	}
	return schema.WriteHelp(c.Stdout, fmt.Sprintf("Amend options for '%s':", drv.Desc().Name))
}
