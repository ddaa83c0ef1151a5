package ops

import (
	"context"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/qapi"
)

// CheckJob says how to check an image.
type CheckJob struct {
	Image    *block.Image
	Fix      driver.CheckFix
	Report   func(line string) // takes findings, one line each; may be nil
	Progress ProgressFunc
}

// Check verifies the metadata of an image once, and repairs what Fix allows. It
// fails with driver.ErrUnsupported if the format has no check. The result is
// valid with an error, too: it has what was found before.
func Check(ctx context.Context, job CheckJob) (*qapi.ImageCheck, error) {
	c, ok := job.Image.Tree().Node().(driver.Checker)
	if !ok {
		return nil, driver.Errorf(driver.ErrUnsupported, "this image format does not support checks")
	}
	report := job.Report
	if report == nil {
		report = func(string) {}
	}
	var progress func(done, total int64)
	if job.Progress != nil {
		progress = func(done, total int64) { job.Progress.report("check", done, total) }
	}
	out := &qapi.ImageCheck{Format: job.Image.Format()}
	res, err := c.Check(ctx, job.Fix, report, progress)
	if res == nil {
		return out, err
	}
	set := func(n int64) *int64 {
		if n == 0 {
			return nil
		}
		return &n
	}
	out.CheckErrors = res.CheckErrors
	out.ImageEndOffset = set(res.ImageEndOffset)
	out.TotalClusters = set(res.TotalClusters)
	out.AllocatedClusters = set(res.AllocatedClusters)
	out.FragmentedClusters = set(res.FragmentedClusters)
	out.CompressedClusters = set(res.CompressedClusters)
	out.Leaks = set(res.Leaks)
	out.LeaksFixed = set(res.LeaksFixed)
	out.Corruptions = set(res.Corruptions)
	out.CorruptionsFixed = set(res.CorruptionsFixed)
	return out, err
}
