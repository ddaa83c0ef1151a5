package qemuimg

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
)

// The exit codes of compare, besides 0 for equal images.
const (
	exitDifferent     = 1
	exitCompareOpen   = 2
	exitCompareStatus = 3
	exitCompareRead   = 4
)

func compareCommand(c *call) *program.Command {
	c.failure = exitCompareOpen
	formatB, strict := "", false
	return &program.Command{
		Name: "compare", Summary: "Check if two images have the same contents",
		Usage: []string{"[--image-opts | [-f FMT] [-F FMT]] [-s] [-T CACHE] [-U] [-p] [-q]",
			"[--object OBJDEF] FILENAME1 FILENAME2"},
		About: "Compares what a guest sees, whatever the formats. Where one disk is larger, the\nrest of it must be zeroes. The exit code is 0 if the images are the same, 1 if\nthey differ, 2 if one cannot be opened, 3 or 4 if one cannot be read.",
		Options: []program.Option{c.helpOption(), c.quietOption(), c.progressOption(),
			c.formatOptionAs("-f, --a-format FMT", "the format of FILENAME1"),
			program.Text(&formatB, "-F, --b-format FMT", "the format of FILENAME2").Offering(c.formats()...),
			program.Flag(&c.imageOpts, "--image-opts", "the FILENAMEs are lists of options instead of file names"),
			program.Flag(&strict, "-s, --strict", "the sizes and what is allocated must be equal too"),
			c.cacheOption("-T, --cache CACHE", "the cache mode for reading (default: writeback)"),
			c.forceShareOption(), c.objectOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME1, FILENAME2", Help: "the images"}},
		Examples: []string{"disk.raw disk.qcow2", "-s -f raw -F raw a.img b.img"},
		Run:      func(context.Context, []string) int { return c.compare(formatB, strict) },
	}
}

func (c *call) compare(formatB string, strict bool) int {
	if len(c.operands) != 2 {
		return c.usage("Expecting two image file names")
	}
	cache, ok := cacheMode(c.cache)
	if !ok {
		return c.errorf("Invalid source cache option: %s", c.cache)
	}
	o := block.OpenOptions{Use: block.Use{Sequential: true}, Sharing: block.Sharing{Force: c.forceShare}, Cache: cache}
	a, err := c.open(c.image(c.operands[0]), o)
	if err != nil {
		return c.fail(err)
	}
	defer c.close(a)
	second := c.image(c.operands[1])
	second.format = formatB
	b, err := c.open(second, o)
	if err != nil {
		return c.fail(err)
	}
	defer c.close(b)
	progress, stop := c.startProgress(2)
	res, err := ops.Compare(c.ctx, a, b, ops.CompareOptions{Strict: strict, Progress: progress.Report})
	if err != nil {
		stop(true)
		return c.compareError(err, a, min(a.Size(), b.Size()))
	}
	code := c.compareResult(res, min(a.Size(), b.Size()))
	// The result takes the place of the last line of progress.
	stop(true)
	return code
}

const sizeWarning = "Warning: Image size mismatch!\n"

// compareResult prints the first difference. Beyond common there is only one of the
// disks.
func (c *call) compareResult(res ops.CompareResult, common int64) int {
	if res.Difference == ops.Same && res.SizeDiffers || res.Difference == ops.DiffContent && res.Offset >= common {
		c.printf(sizeWarning)
	}
	switch res.Difference {
	case ops.Same:
		c.printf("Images are identical.\n")
		return 0
	case ops.DiffSize:
		c.printf("Strict mode: Image size mismatch!\n")
	case ops.DiffAllocation:
		c.printf("Strict mode: Offset %d block status mismatch!\n", res.Offset)
	default:
		c.printf("Content mismatch at offset %d!\n", res.Offset)
	}
	return exitDifferent
}

// compareError reports what could not be read. Beyond common there is only one of the
// disks.
func (c *call) compareError(err error, first *block.Image, common int64) int {
	name, offset := c.operands[0], int64(0)
	var which *ops.CompareError
	if errors.As(err, &which) {
		offset = which.Offset
		if which.Image != first {
			name = c.operands[1]
		}
	}
	var io *block.IOError
	if !errors.As(err, &io) {
		c.errorf("%s", words.Text(err))
		return exitCompareRead
	}
	code := exitCompareRead
	if io.Op == "map" {
		code = exitCompareStatus
		c.errorf("Sector allocation test failed for %s: %s", name, words.System(io.Err))
	} else {
		c.errorf("Error while reading offset %d of %s: %s", offset, name, words.System(io.Err))
	}
	if offset >= common {
		// After the error, where both streams go to one pipe: so QEMU's buffer has it.
		c.printf(sizeWarning)
	}
	return code
}
