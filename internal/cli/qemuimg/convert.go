package qemuimg

import (
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
)

// runCommand runs convert, once the command line is read.
func (cv *conversion) runCommand() int {
	c := cv.call
	if n := len(c.operands); n > 1 {
		cv.sources, cv.target = c.operands[:n-1], c.operands[n-1]
	}
	if cv.list.given() && cv.list.wantsHelp() {
		return c.createHelp(cv.outFormat(), cv.target)
	}
	if len(cv.sources) == 0 {
		return c.errorf("Must specify image file name")
	}
	err := cv.run()
	if err == nil {
		err = cv.printSum()
	}
	if err != nil {
		return c.fail(err)
	}
	return 0
}

// run does the work, once the command line is read.
func (cv *conversion) run() (err error) {
	c := cv.call
	cache, ok := cacheMode(c.cache)
	if !ok {
		return fmt.Errorf("Invalid source cache option: %s", c.cache)
	}
	if cv.platform != nil {
		if err := cv.choose(); err != nil {
			return err
		}
	}
	c.streaming = cv.target == "-"
	progress, stop := c.startProgress(1)
	defer func() { stop(err != nil) }()
	cv.progress = progress
	if cv.sources[0] == "-" {
		return cv.fromStream("The standard input ('-')", nil)
	}
	if archive, disk, ok := c.pipedOVA(cv.sources[0]); ok {
		return cv.fromStream("An appliance from a pipe", func() (*pipedDisk, error) { return cv.openPiped(archive, disk) })
	}
	job := cv.job()
	defer func() {
		for _, img := range job.Sources {
			if e := c.close(img); err == nil {
				err = e
			}
		}
	}()
	for _, name := range cv.sources {
		img, err := c.open(c.image(name), block.OpenOptions{Use: block.Use{Sequential: true}, Sharing: block.Sharing{Force: c.forceShare, Exclusive: true}, Cache: cache})
		if err != nil {
			return err
		}
		job.Sources = append(job.Sources, img)
	}
	if cv.snapshot.Given() {
		if len(job.Sources) > 1 {
			return fmt.Errorf("No support for concatenating multiple snapshot")
		}
		if err := c.loadSnapshot(job.Sources[0], cv.snapshot); err != nil {
			return err
		}
	}
	if cv.platform != nil {
		if err := cv.fill(&job); err != nil {
			return err
		}
		if cv.platform.archive {
			return cv.toArchive(job)
		}
	}
	if c.streaming {
		return cv.toStream(job)
	}
	return cv.toTarget(job)
}

// job is what the command line says of the copying itself.
func (cv *conversion) job() ops.CopyJob {
	job := ops.CopyJob{Compress: cv.compress, Sparse: cv.sparse, Workers: cv.workers, OutOfOrder: cv.outOfOrder,
		CopyRange: cv.copyRange, Reflink: cv.reflink, RateLimit: cv.rate, Salvage: cv.salvage, TargetIsZero: cv.targetIsZero,
		Bitmaps: cv.bitmaps, SkipInconsistent: cv.skipBroken,
		Progress: cv.progress.Report, Warn: func(m string) { cv.warnf("%s", m) }}
	job.Salvaged = func(off int64, err error) {
		doing := "reading"
		var io *block.IOError
		if errors.As(err, &io) && io.Op == "map" {
			doing = "reading block status at"
		}
		cv.warnf("error while %s offset %d: %s", doing, off, words.System(err))
	}
	// Counting what is to be copied costs time: only with progress output.
	job.ProgressByPosition = cv.call.progress == render.ProgressOff || cv.quiet
	if cv.sparse == 0 {
		job.Sparse = -1
	}
	if cv.sum != nil {
		job.Checksum = cv.sum
	}
	return job
}

// toTarget creates or opens the target and copies.
func (cv *conversion) toTarget(job ops.CopyJob) (err error) {
	cache, ok := cacheMode(cv.targetCache)
	if !ok {
		return fmt.Errorf("Invalid cache option: %s", cv.targetCache)
	}
	if !cv.noCreate {
		if job.New, err = cv.newTarget(); err != nil {
			return err
		}
		job.NewCache = cache
		_, err = ops.Copy(cv.ctx, job)
		return cv.copyError(err)
	}
	job.UseBacking = cv.backing != nil
	if job.TargetIsZero && job.UseBacking {
		return errors.New("Cannot use --target-is-zero when the destination image has a backing file")
	}
	job.Target, err = cv.open(image{name: cv.target, format: cv.outFormat(), imageOpts: cv.targetImageOpts},
		block.OpenOptions{Write: true, Use: block.Use{Sequential: true}, Unmap: cv.sparse > 0, Cache: cache})
	if err != nil {
		return err
	}
	_, err = ops.Copy(cv.ctx, job)
	if e := cv.close(job.Target); err == nil && e != nil {
		err = &ops.CopyError{Stage: ops.CopyData, Err: e, Remains: &ops.IncompleteError{Target: cv.target}}
	}
	return cv.copyError(err)
}

// printSum prints the checksum that --checksum asked for.
func (cv *conversion) printSum() error {
	if cv.sum == nil {
		return nil
	}
	w := cv.Stdout
	if cv.streaming {
		w = cv.Stderr
	}
	_, err := fmt.Fprintln(w, cv.sum)
	return err
}
