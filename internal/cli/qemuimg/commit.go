package qemuimg

import (
	"context"
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
)

func commitCommand(c *call) *program.Command {
	job := ops.CommitJob{}
	var base *string
	return &program.Command{
		Name: "commit", Summary: "Commit image to its backing file",
		Usage: []string{"[-f FMT | --image-opts] [-t CACHE_MODE] [-b BASE_IMG] [-d]",
			"[-r RATE] [-p] [-q] [--object OBJDEF] FILENAME"},
		About: "Writes what FILENAME holds into its backing file, which grows if FILENAME is\nlarger, and empties FILENAME. Other images that rest on the backing file, or on\nlayers between BASE_IMG and FILENAME, are invalid afterwards. Stopped at any time,\nFILENAME has the content it had.",
		Options: []program.Option{c.helpOption(), c.quietOption(), c.progressOption(), c.formatOption(), c.imageOptsOption(),
			c.cacheOption("-t, --cache CACHE_MODE", "the cache mode for writing (default: writeback)"),
			program.Flag(&job.Keep, "-d, --drop", "do not empty FILENAME in the end"),
			program.Given(&base, "-b, --base BASE_IMG", "the image in the backing chain to commit to, instead of the next one;\nimplies --drop"),
			sizeOption(&job.RateLimit, "-r, --rate RATE", "copy at most RATE bytes per second", "rate limit"),
			c.objectOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image to commit"}},
		Examples: []string{"overlay.qcow2", "-b base.qcow2 overlay.qcow2"},
		Run: func(context.Context, []string) int {
			job.Keep = job.Keep || base != nil
			return c.runCommit(job, base)
		},
	}
}

func (c *call) runCommit(job ops.CommitJob, base *string) int {
	if len(c.operands) != 1 {
		return c.usage("Expecting one image file name")
	}
	cache, ok := cacheMode(c.cache)
	if !ok {
		return c.errorf("Invalid cache option: %s", c.cache)
	}
	o := block.OpenOptions{Write: true, Unmap: true, Cache: cache, Chain: block.ChainUse{WriteBacking: base == nil || *base != ""}}
	if base != nil {
		o.Chain.WriteBase = *base
	}
	top, err := c.open(c.image(c.operands[0]), o)
	if errors.Is(err, driver.ErrLocked) {
		err = c.lockError(err, o)
	}
	if err != nil {
		return c.fail(err)
	}
	job.Top = top
	err = c.commit(job, base)
	if e := c.close(top); err == nil {
		err = e
	}
	if err != nil {
		return c.fail(err)
	}
	c.printf("Image committed.\n")
	return 0
}

// lockError words the error of an image that cannot be opened together with its base
// for writing. If the image alone can be opened, the base is in use, and the error
// names only that.
func (c *call) lockError(err error, o block.OpenOptions) error {
	o.Chain.WriteBacking = false
	img, alone := c.open(c.image(c.operands[0]), o)
	if alone != nil {
		return alone
	}
	_ = c.close(img)
	var layer *block.OpenError
	for errors.As(err, &layer) {
		err = layer.Err
	}
	return err
}

func (c *call) commit(job ops.CommitJob, base *string) (err error) {
	progress, stop := c.startProgress(1)
	defer func() { stop(err != nil) }()
	job.Progress = progress.Report
	job.Base = job.Top.Backing()
	if base != nil {
		if job.Base, err = job.Top.Tree().FindBacking(c.ctx, *base); err != nil {
			return err
		}
	}
	switch {
	case job.Base == nil && base != nil:
		return fmt.Errorf("Did not find '%s' in the backing chain of '%s'", *base, c.operands[0])
	case job.Base == nil:
		return fmt.Errorf("Image does not have a backing file")
	}
	if err := job.Top.Tree().KeepReadersOut(c.ctx, job.Base); err != nil {
		return err
	}
	if err := ops.Commit(c.ctx, job); err != nil && c.ctx.Err() == nil {
		var full *ops.NotEmptiedError
		if errors.As(err, &full) {
			return fmt.Errorf("Failed to empty %s: %s", c.operands[0], commitError(full.Err))
		}
		return fmt.Errorf("Block job failed: %s", commitError(err))
	} else if err != nil {
		return err
	}
	return nil
}

// commitError is the text of an error without the name of the image it came from.
func commitError(err error) string {
	var io *block.IOError
	if errors.As(err, &io) {
		err = io.Err
	}
	return words.System(err)
}
