package qemuimg

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/qapi"
)

// The exit codes of check, besides 0 for a clean image and 1 for a failure.
const (
	exitCorrupt   = 2
	exitLeaks     = 3
	exitNoChecker = 63
)

func checkCommand(c *call) *program.Command {
	var fix driver.CheckFix
	return &program.Command{
		Name: "check", Summary: "Check basic image integrity",
		Usage: []string{"[-f FMT | --image-opts] [-T CACHE_MODE] [-r leaks|all] [-U] [-p] [-q]",
			"[--output human|json] [--object OBJDEF] FILENAME"},
		About: "The exit code is 0 if the image is clean, 1 if the check failed, 2 if the image is\ncorrupt, 3 if it only has leaked clusters, 63 if its format has no check.",
		Options: []program.Option{c.helpOption(), c.quietOption(), c.formatOption(), c.imageOptsOption(),
			c.cacheOption("-T, --cache CACHE_MODE", "the cache mode (default: writeback)"),
			c.forceShareOption(), c.outputOption(),
			program.Choice("-r, --repair leaks|all", "--repair (-r)", "repair leaked clusters, or all that is wrong; cannot be combined with -U", func(word string) {
				fix = driver.CheckFix{Leaks: true, Errors: word == "all"}
			}, "leaks", "all"),
			c.objectOption(), c.progressOption().InFull(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image"}},
		Examples: []string{"disk.qcow2", "-r leaks disk.qcow2"},
		Run:      func(context.Context, []string) int { return c.runCheck(fix) },
	}
}

func (c *call) runCheck(fix driver.CheckFix) int {
	if len(c.operands) != 1 {
		return c.usage("Expecting one image file name")
	}
	cache, ok := cacheMode(c.cache)
	if !ok {
		return c.errorf("Invalid source cache option: %s", c.cache)
	}
	repair := fix != driver.CheckFix{}
	img, err := c.open(c.image(c.operands[0]), block.OpenOptions{Use: block.Use{Check: true}, Write: repair, Unmap: true, Sharing: block.Sharing{Force: c.forceShare}, Cache: cache})
	if err != nil {
		return c.fail(err)
	}
	code := c.check(img, fix)
	if err := c.close(img); err != nil && code == 0 {
		return c.fail(err)
	}
	return code
}

func (c *call) check(img *block.Image, fix driver.CheckFix) int {
	found := render.NewFindings(c.Stderr)
	job := ops.CheckJob{Image: img, Fix: fix, Report: found.Report}
	progress, stop := c.startProgress(1)
	job.Progress = progress.Report
	result, err := ops.Check(c.ctx, job)
	found.End()
	stop(err != nil)
	if errors.Is(err, driver.ErrUnsupported) {
		c.fail(err)
		return exitNoChecker
	}
	leaks, corruptions := fixed(result.LeaksFixed), fixed(result.CorruptionsFixed)
	if leaks+corruptions > 0 {
		if !c.json {
			if code := c.print(render.Repaired(c.out(), leaks, corruptions)); code != 0 {
				return code
			}
		}
		found = render.NewFindings(c.Stderr)
		job.Fix, job.Report = driver.CheckFix{}, found.Report
		was := result
		result, err = ops.Check(c.ctx, job)
		found.End()
		result.LeaksFixed, result.CorruptionsFixed = was.LeaksFixed, was.CorruptionsFixed
	}
	if err != nil && c.ctx.Err() != nil {
		return c.fail(c.ctx.Err()) // a connection that ended with it is no fault of the disk
	}
	if err != nil {
		return c.errorf("Check failed: %s", words.System(err))
	}
	result.Filename = c.operands[0]
	return c.checkResult(result)
}

func fixed(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

func (c *call) checkResult(r *qapi.ImageCheck) int {
	var err error
	if c.json {
		err = render.JSON(c.out(), r)
	} else {
		err = render.Check(c.out(), r)
	}
	switch {
	case err != nil:
		return c.print(err)
	case r.CheckErrors > 0:
		return c.errorf("Check failed")
	case r.Corruptions != nil:
		return exitCorrupt
	case r.Leaks != nil:
		return exitLeaks
	}
	return 0
}
