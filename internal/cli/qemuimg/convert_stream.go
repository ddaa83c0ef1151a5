package qemuimg

import (
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/words"
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
	job := cv.job()
	job.Reader, job.NewCache = newCancelReader(cv.ctx, cv.Stdin), cache
	var err error
	if job.New, err = cv.newTarget(); err != nil {
		return err
	}
	switch d := job.New.Options; {
	case d.String("backing_file") != "":
		return errors.New("The standard input ('-') cannot be combined with a backing file")
	case d.String("preallocation") != "" && d.String("preallocation") != "off":
		return errors.New("The standard input ('-') cannot be combined with preallocation")
	}
	_, err = ops.Copy(cv.ctx, job)
	return cv.copyError(err)
}

// toStream writes the disk to the standard output.
func (cv *conversion) toStream(job ops.CopyJob) error {
	format := cv.outFormat()
	drv := cv.reg.Lookup(format)
	switch {
	case drv == nil:
		return fmt.Errorf("Unknown file format '%s'", format)
	case drv.Desc().CreateOptions == nil:
		return fmt.Errorf("Format driver '%s' does not support image creation", format)
	case cv.noCreate || cv.targetImageOpts:
		return errors.New("The standard output ('-') is always a new image")
	case cv.copyRange || cv.reflink == ops.ReflinkAlways:
		return errors.New("The standard output ('-') can only be written by copying")
	case cv.bitmaps:
		return errors.New("The standard output ('-') cannot be combined with --bitmaps")
	case cv.compress:
		return errors.New("The standard output ('-') cannot be combined with compression")
	}
	d, err := cv.list.dict()
	if err != nil {
		return err
	}
	if err := drv.Desc().CreateOptions.Check(d); err != nil {
		return err
	}
	// The size is that of the source, whatever -o says.
	delete(d, "size")
	if cv.backing != nil || cv.backFm != nil || d.String("backing_file") != "" {
		return errors.New("The standard output ('-') cannot be combined with a backing file")
	}
	_, err = ops.ConvertToWriter(cv.ctx, cv.Data, drv, d, ops.ConvertJob{Sources: job.Sources, Sparse: max(0, job.Sparse),
		Salvage: job.Salvage, Salvaged: job.Salvaged, RateLimit: job.RateLimit, Checksum: job.Checksum, Progress: job.Progress, Warn: job.Warn})
	if err == nil {
		return nil
	}
	var io *block.IOError
	if errors.As(err, &io) {
		return cv.copyError(&ops.CopyError{Stage: ops.CopyData, Err: err, Remains: &ops.IncompleteError{Target: "-"}})
	}
	return fmt.Errorf("error while writing to the standard output: %s", words.System(err))
}
