package qemuimg

import (
	"cmp"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/resources"
	"github.com/cowl-disk/cowl/ops"
)

// runCommand runs convert, once the command line is read.
func (cv *conversion) runCommand() int {
	c := cv.call
	if err := cv.check(); err != nil {
		return c.fail(err)
	}
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

// check finds options that do not go together.
func (cv *conversion) check() error {
	switch {
	case cv.compress && cv.copyRange:
		return fmt.Errorf("Cannot enable copy offloading when -c is used")
	case cv.sparseGiven && cv.copyRange:
		return fmt.Errorf("Cannot enable copy offloading when -S is used")
	case cv.salvage && cv.copyRange:
		return fmt.Errorf("Cannot use copy offloading in salvaging mode")
	case cv.reflink == ops.ReflinkAlways && cv.compress:
		return fmt.Errorf("Cannot use --reflink=always when -c is used")
	case cv.targetImageOpts && !cv.noCreate:
		return fmt.Errorf("--target-image-opts requires use of -n flag")
	case cv.noCreate && cv.list.given() && !cv.list.wantsHelp():
		return fmt.Errorf("-o has no effect when skipping image creation")
	case cv.targetIsZero && !cv.noCreate:
		return fmt.Errorf("--target-is-zero requires use of -n flag")
	case cv.skipBroken && !cv.bitmaps:
		return fmt.Errorf("Use of --skip-broken-bitmaps requires --bitmaps")
	}
	return nil
}

// run does the work, once the command line is read.
func (cv *conversion) run() (err error) {
	c := cv.call
	cache, ok := cacheMode(c.cache)
	if !ok {
		return fmt.Errorf("Invalid source cache option: %s", c.cache)
	}
	c.streaming = cv.target == "-"
	progress, stop := c.startProgress(1)
	defer func() { stop(err != nil) }()
	cv.progress = progress
	if cv.sources[0] == "-" {
		return cv.fromStream()
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
		img, err := c.open(c.image(name), block.OpenOptions{Sequential: true, ForceShare: c.forceShare, Exclusive: true, Cache: cache})
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
	if c.streaming {
		return cv.toStream(job)
	}
	return cv.toTarget(job, total(job.Sources))
}

// total is the size of the disks one after the other.
func total(list []*block.Image) (n int64) {
	for _, img := range list {
		n += (img.Size() + 511) &^ 511
	}
	return n
}

// job is what the command line says of the copying itself.
func (cv *conversion) job() ops.ConvertJob {
	job := ops.ConvertJob{Compress: cv.compress, Sparse: cv.sparse, Workers: cv.workers, OutOfOrder: cv.outOfOrder,
		CopyRange: cv.copyRange, Reflink: cv.reflink, RateLimit: cv.rate, Salvage: cv.salvage,
		Progress: cv.progress.Report, Warn: func(m string) { cv.warnf("%s", m) }}
	if cv.sum != nil {
		job.Checksum = cv.sum
	}
	return job
}

// toTarget creates or opens the target and copies.
func (cv *conversion) toTarget(job ops.ConvertJob, size int64) error {
	cache, ok := cacheMode(cv.targetCache)
	plan, err := cv.plan(len(job.Sources), size)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("Invalid cache option: %s", cv.targetCache)
	}
	if err := cv.checkBitmaps(job.Sources); err != nil {
		return err
	}
	if !cv.noCreate {
		if err := refuseOverwrite(cv.target, job.Sources...); err != nil {
			return fmt.Errorf("%s: error while converting %s: %w", cv.target, plan.format, err)
		}
	}
	if job.Target, err = cv.openTarget(plan, cache); err != nil {
		return err
	}
	err = cv.copyTo(job, plan, size)
	if e := cv.close(job.Target); err == nil {
		err = e
	}
	if err != nil {
		return cv.incomplete(err)
	}
	return nil
}

// copyTo copies to the open target.
func (cv *conversion) copyTo(job ops.ConvertJob, plan *targetPlan, size int64) error {
	if cv.compress && !job.Target.CanCompress() {
		err := cannotCompress(cv.ctx, job.Target)
		if cv.noCreate {
			return &untouched{err}
		}
		return err
	}
	if cv.bitmaps {
		if _, ok, err := job.Target.Bitmaps(cv.ctx); err != nil || !ok {
			return &untouched{cmp.Or(err, fmt.Errorf("Format driver '%s' does not support bitmaps", job.Target.Format()))}
		}
	}
	if cv.noCreate && job.Target.Size() < size {
		return &untouched{fmt.Errorf("output file is smaller than input file")}
	}
	if cv.compress {
		job.Workers = cv.compressors(job.Target)
	}
	if plan.backing {
		job.TargetBase = job.Target.Backing()
		job.TargetNew = !cv.noCreate
	}
	job.TargetZero = cv.targetIsZero
	if !cv.noCreate && !plan.backing && cv.sparse > 0 {
		zero, err := zeroInit(cv.call, job.Target)
		if err != nil {
			return err
		}
		job.TargetZero = zero
	}
	if _, err := ops.Convert(cv.ctx, job); err != nil {
		return err
	}
	return cv.copyBitmaps(job.Sources[0], job.Target)
}

// What an encoder holds: the cluster that it reads, room for the result, a history of
// several clusters and tables.
const (
	encoderClusters = 9
	encoderTables   = 1 << 20
)

// compressors is how many workers compress at a time: as many as asked for, or the
// usual number, as far as memory allows.
func (cv *conversion) compressors(target *block.Image) int {
	return resources.Workers(cmp.Or(cv.workers, usualWorkers()), encoderClusters*target.Limits().ClusterSize+encoderTables)
}

// usualWorkers is how many workers there are without -m.
func usualWorkers() int { return min(max(2, resources.Processors()), 8) }

// zeroInit says whether a new image reads as zeroes.
func zeroInit(c *call, img *block.Image) (bool, error) {
	info, err := img.Info(c.ctx)
	if err != nil {
		return false, err
	}
	return info.ZeroInit, nil
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
