package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// Check verifies the metadata of the image and repairs what fix allows. Where
// the check cannot go on there is an error, whose text is what the original
// appends to "Check failed: ", and the result counts what was found before.
//
// No request may be under way. What the image had not written yet is written
// first; what it had read is read again if something was repaired.
func (im *image) Check(ctx context.Context, fix driver.CheckFix, report func(line string), progress func(done, total int64)) (*driver.CheckResult, error) {
	if (fix.Leaks || fix.Errors) && !im.writable {
		return nil, driver.Errorf(driver.ErrReadOnly, "Image is read-only")
	}
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if im.writable && im.begun.Load() {
		// Refcounts that were postponed and clusters that wait to be freed too.
		if err := im.settle(ctx); err != nil {
			return nil, err
		}
	}
	im.hdrMu.Lock()
	c := newChecker(ctx, im.file, im.env.Budget, &im.hdr, im.exts, im.bitmapsExt)
	if im.l1.Off == int64(im.hdr.L1TableOffset) && len(im.l1.Entries) == int(im.hdr.L1Size) {
		// What was flushed is what is in memory: no second copy of a table that
		// may have 32 MiB. If a repair changes it, it is read again below.
		c.l1 = im.l1.Entries[:c.wordsInFile(im.l1.Off, int64(len(im.l1.Entries)))]
	}
	im.hdrMu.Unlock()
	c.fix = fix
	if report != nil {
		c.report = report
	}
	if progress != nil {
		c.progress = progress
	}
	err := c.run()
	if c.changed {
		if ferr := im.file.Flush(ctx); err == nil {
			err = ferr
		}
		c.l1, c.reftable = nil, nil // make room for what is read again
		if ierr := im.invalidate(ctx); err == nil {
			err = ierr
		}
	}
	return &c.res, err
}

var _ driver.Checker = (*image)(nil)
