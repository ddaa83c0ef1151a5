package qemuimg

import (
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
)

// fromStream reads a raw disk from the standard input.
func (cv *conversion) fromStream() error {
	switch {
	case len(cv.sources) > 1:
		return errors.New("The standard input ('-') must be the only source")
	case cv.target == "-":
		return errors.New("Source and target cannot both be '-'")
	case cv.imageOpts:
		return errors.New("The standard input ('-') cannot be combined with --image-opts")
	case cv.call.format != "" && cv.call.format != "raw":
		return fmt.Errorf("The standard input ('-') must be raw, not %s", cv.call.format)
	case cv.snapshot.Given():
		return errors.New("The standard input ('-') has no snapshots")
	case cv.bitmaps:
		return errors.New("The standard input ('-') has no bitmaps")
	case cv.copyRange || cv.reflink == ops.ReflinkAlways:
		return errors.New("The standard input ('-') can only be copied by reading")
	case cv.noCreate:
		return errors.New("The standard input ('-') needs a new target: its size is not known before the end")
	case cv.backing != nil:
		return errors.New("The standard input ('-') cannot be combined with a backing file")
	}
	cache, ok := cacheMode(cv.targetCache)
	if !ok {
		return fmt.Errorf("Invalid cache option: %s", cv.targetCache)
	}
	plan, err := cv.plan(1, 0)
	if err != nil {
		return err
	}
	if plan.backing {
		return errors.New("The standard input ('-') cannot be combined with a backing file")
	}
	job := cv.job()
	if job.Target, err = cv.openGrowing(plan, cache); err != nil {
		return err
	}
	if job.TargetZero, err = zeroInit(cv.call, job.Target); err == nil {
		_, err = ops.ConvertFromReader(cv.ctx, newCancelReader(cv.ctx, cv.Stdin), job)
	}
	if e := cv.close(job.Target); err == nil {
		err = e
	}
	if err != nil {
		return cv.incomplete(err)
	}
	return nil
}

// toStream writes the disk to the standard output.
func (cv *conversion) toStream(job ops.ConvertJob) error {
	plan := &targetPlan{format: cv.outFormat()}
	drv := cv.reg.Lookup(plan.format)
	switch {
	case drv == nil:
		return fmt.Errorf("Unknown file format '%s'", plan.format)
	case drv.Desc().CreateOptions == nil:
		return fmt.Errorf("Format driver '%s' does not support image creation", plan.format)
	case cv.noCreate || cv.targetImageOpts:
		return errors.New("The standard output ('-') is always a new image")
	case cv.copyRange || cv.reflink == ops.ReflinkAlways:
		return errors.New("The standard output ('-') can only be written by copying")
	case cv.bitmaps:
		return errors.New("The standard output ('-') cannot be combined with --bitmaps")
	case cv.compress:
		return errors.New("The standard output ('-') cannot be combined with compression")
	}
	if err := cv.planOptions(plan, drv.Desc().CreateOptions); err != nil {
		return err
	}
	if plan.backing {
		return errors.New("The standard output ('-') cannot be combined with a backing file")
	}
	if _, err := ops.ConvertToWriter(cv.ctx, cv.Data, drv, plan.options, job); err != nil {
		var io *block.IOError
		if errors.As(err, &io) {
			return cv.incomplete(err)
		}
		return fmt.Errorf("error while writing to the standard output: %s", render.System(err))
	}
	return nil
}
