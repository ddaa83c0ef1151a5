package qemuimg

import (
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
)

// fromStream reads a disk that can be read only once, which errors call what: the standard input, or if open is
// not nil what it opens.
func (cv *conversion) fromStream(what string, open func() (*pipedDisk, error)) (err error) {
	switch {
	case len(cv.sources) > 1:
		return errors.New(what + " must be the only source")
	case cv.target == "-" && open == nil:
		return errors.New("Source and target cannot both be '-'")
	case cv.target == "-":
		return errors.New(what + " needs a file as target")
	case cv.imageOpts:
		return errors.New(what + " cannot be combined with --image-opts")
	case open == nil && cv.call.format != "" && cv.call.format != "raw":
		return fmt.Errorf("%s must be raw, not %s", what, cv.call.format)
	case cv.snapshot.Given():
		return errors.New(what + " has no snapshots")
	case cv.bitmaps:
		return errors.New(what + " has no bitmaps")
	case cv.copyRange || cv.reflink == ops.ReflinkAlways:
		return errors.New(what + " can only be copied by reading")
	case cv.noCreate:
		return errors.New(what + " needs a new target: its size is not known before the end")
	case cv.backing != nil:
		return errors.New(what + " cannot be combined with a backing file")
	case cv.platform != nil:
		return errors.New(what + " cannot be combined with --for")
	}
	cache, ok := cacheMode(cv.targetCache)
	if !ok {
		return fmt.Errorf("Invalid cache option: %s", cv.targetCache)
	}
	job := cv.job()
	job.NewCache = cache
	if job.New, err = cv.newTarget(); err != nil {
		return err
	}
	switch d := job.New.Options; {
	case d.String("backing_file") != "":
		return errors.New(what + " cannot be combined with a backing file")
	case d.String("preallocation") != "" && d.String("preallocation") != "off":
		return errors.New(what + " cannot be combined with preallocation")
	}
	if open == nil {
		job.Reader = newCancelReader(cv.ctx, cv.Stdin)
		_, err = ops.Copy(cv.ctx, job)
		return cv.copyError(err)
	}
	disk, err := open()
	if err != nil {
		return err
	}
	defer func() {
		if e := disk.close(err == nil); err == nil {
			err = e
		}
	}()
	job.Reader, job.ReaderSize = disk, disk.size
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
	if err := drv.Desc().CreateOptions.Check(d, cv.list.names()...); err != nil {
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
