package vmdk

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/chunks"
	"github.com/cowl-disk/cowl/internal/resources"
)

const (
	// checkBatch is how many grains are decoded before what was found is reported, in the order of the disk.
	checkBatch = 256
	// maxDeflate is how many bytes one byte of a zlib stream decodes to at most.
	maxDeflate = 1032

	grainNoun = "a grain that is checked"
)

// grainCheck decodes the grains of a compressed extent.
type grainCheck struct {
	x        *extent
	report   func(string)
	res      *driver.CheckResult
	progress func(done int64)

	workers int
	batch   []chunks.Chunk
	taken   int64 // bytes of the file that the grains so far have at least
}

var errGrainsOverlap = driver.Errorf(driver.ErrCorrupt, "grains lie over each other")

// checkCompressed counts the grains of a compressed extent that are not in the file, or cannot be decoded. Each
// is decoded, which takes as long as reading the disk.
func (x *extent) checkCompressed(ctx context.Context, res *driver.CheckResult, report func(string), progress func(done int64)) error {
	c := &grainCheck{x: x, report: report, res: res, progress: progress}
	defer func() { x.budget.Release(int64(c.workers) * x.grain) }()
	for c.workers < resources.Processors() {
		if err := x.budget.Scratch(grainNoun, x.grain); err != nil {
			if c.workers == 0 {
				return err
			}
			break
		}
		c.workers++
	}
	_, err := x.disk.Check(ctx, func(f blockmap.Finding) {
		if f.Problem == blockmap.BadTable || f.Problem == blockmap.TableTwice {
			res.Corruptions++
			report(badTable(f))
		}
	})
	if err != nil {
		return err
	}
	err = x.disk.Entries(ctx, func(unit int64, e blockmap.Entry) error { return c.entry(ctx, unit, e) })
	if err == nil {
		err = c.decode(ctx)
	}
	if errors.Is(err, errGrainsOverlap) {
		res.Corruptions++
		report(fmt.Sprintf("ERROR: %v: the rest is not checked", errGrainsOverlap))
		return nil
	}
	return err
}

// entry takes an entry of a grain table.
func (c *grainCheck) entry(ctx context.Context, unit int64, e blockmap.Entry) error {
	x := c.x
	switch {
	case e.State == blockmap.Bad || e.State == blockmap.Encoded && e.Host >= x.file.Size():
		if err := c.decode(ctx); err != nil {
			return err
		}
		c.res.Corruptions++
		c.report(fmt.Sprintf("ERROR: cluster offset for sector %d points after EOF", (x.start+unit*x.grain)/sectorSize))
		return nil
	case e.State != blockmap.Encoded:
		return nil
	}
	// Grains at places of their own cannot have more than the file: a small file keeps nobody busy for long.
	if c.taken += max(sectorSize, x.grain/maxDeflate); c.taken > x.file.Size() {
		if err := c.decode(ctx); err != nil {
			return err
		}
		return errGrainsOverlap
	}
	if c.batch = append(c.batch, x.chunk(unit, e)); len(c.batch) < checkBatch {
		return nil
	}
	return c.decode(ctx)
}

// decode decodes the grains of the batch and reports those that are damaged.
func (c *grainCheck) decode(ctx context.Context) error {
	x := c.x
	failed := make([]error, len(c.batch))
	g, gctx := errgroup.WithContext(ctx)
	for w := range min(c.workers, len(c.batch)) {
		g.Go(func() error {
			buf := bufpool.Get(int(x.grain))
			defer bufpool.Put(buf)
			for i := w; i < len(c.batch); i += c.workers {
				k := c.batch[i]
				err := x.chunks.ReadAt(gctx, buf[:k.Length], k.Offset, func(context.Context, int64) (chunks.Chunk, error) { return k, nil })
				if failed[i] = err; err != nil && !errors.Is(err, driver.ErrCorrupt) {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, err := range failed {
		if err != nil {
			c.res.Corruptions++
			c.report(fmt.Sprintf("ERROR: grain %d (sector %d): %v", c.batch[i].Offset/x.grain, (x.start+c.batch[i].Offset)/sectorSize, err))
		}
	}
	if n := len(c.batch); n > 0 && c.progress != nil {
		c.progress(x.start + c.batch[n-1].Offset)
	}
	c.batch = c.batch[:0]
	return nil
}
