package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/check"
)

// Check verifies the metadata of the image and repairs what fix allows. Where
// the check cannot go on there is an error, whose text is what QEMU
// appends to "Check failed: ", and the result counts what was found before.
//
// No request may be under way. What the image had not written yet is written
// first; what it had read is read again if something was repaired.
func (im *image) Check(ctx context.Context, fix driver.CheckFix, report func(line string), progress func(done, total int64)) (*driver.CheckResult, error) {
	if (fix.Leaks || fix.Errors) && !im.writable {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if im.writable && im.begun.Load() {
		// Refcounts that were postponed and clusters that wait to be freed too.
		if err := im.writebackAll(ctx); err != nil {
			return nil, err
		}
	}
	im.hdrMu.Lock()
	hdr := im.hdr
	req := check.Request{File: im.file, Budget: im.env.Budget, Header: &hdr, Extensions: im.exts, Bitmaps: im.bitmapsExt,
		Fix: fix, Report: report, Words: im.env.InWords, Progress: progress}
	if im.l1.Off == int64(hdr.L1TableOffset) && len(im.l1.Entries) == int(hdr.L1Size) {
		// What was flushed is what is in memory: no second copy of a table that
		// may have 32 MiB. If a repair changes it, it is read again below.
		req.L1 = im.l1.Entries
	}
	im.hdrMu.Unlock()
	res, changed, err := check.Run(ctx, req)
	if changed {
		if ferr := im.file.Flush(ctx); err == nil {
			err = ferr
		}
		if ierr := im.invalidate(ctx); err == nil {
			err = ierr
		}
	}
	return res, err
}

var _ driver.Checker = (*image)(nil)
