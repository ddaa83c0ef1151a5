package qemuimg

import (
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
)

const (
	compareFormatB = iota + 1
	compareStrict
)

// The exit codes of compare, besides 0 for equal images.
const (
	exitDifferent     = 1
	exitCompareOpen   = 2
	exitCompareStatus = 3
	exitCompareRead   = 4
)

func compareCommand() *command {
	return &command{
		name: "compare", summary: "Check if two images have the same contents", run: runCompare, failure: exitCompareOpen,
		usage: []string{"[--image-opts | [-f FMT] [-F FMT]] [-s] [-T CACHE] [-U] [-p] [-q]",
			"[--object OBJDEF] FILENAME1 FILENAME2"},
		about: "Compares what a guest sees, whatever the formats. Where one disk is larger, the\nrest of it must be zeroes. The exit code is 0 if the images are the same, 1 if\nthey differ, 2 if one cannot be opened, 3 or 4 if one cannot be read.",
		options: []option{helpOption(), quietOption(), progressOption(),
			{id: optFormat, long: "a-format", short: 'f', value: "FMT", help: "the format of FILENAME1"},
			{id: compareFormatB, long: "b-format", short: 'F', value: "FMT", help: "the format of FILENAME2"},
			{id: optImageOpts, long: "image-opts", help: "the FILENAMEs are lists of options instead of file names"},
			{id: compareStrict, long: "strict", short: 's', help: "the sizes and what is allocated must be equal too"},
			{id: optCache, long: "cache", short: 'T', value: "CACHE", help: "the cache mode for reading (default: writeback)"},
			forceShareOption(), objectOption(),
		},
		operands: []operand{{"FILENAME1, FILENAME2", "the images"}},
		examples: []string{"disk.raw disk.qcow2", "-s -f raw -F raw a.img b.img"},
	}
}

func runCompare(c *call, args []string) int {
	formatB, strict := "", false
	c.cache = cacheWriteback
	code, ok := c.parse(args, func(id int, arg string) error {
		switch id {
		case compareFormatB:
			formatB = arg
		case compareStrict:
			strict = true
		}
		return nil
	})
	if !ok {
		return code
	}
	if len(c.operands) != 2 {
		return c.usage("Expecting two image file names")
	}
	cache, ok := cacheMode(c.cache)
	if !ok {
		return c.errorf("Invalid source cache option: %s", c.cache)
	}
	o := block.OpenOptions{Sequential: true, ForceShare: c.forceShare, Cache: cache}
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
		return c.compareError(err, a)
	}
	code = c.compareResult(res, min(a.Size(), b.Size()))
	// The result stands where the end of the progress would.
	stop(true)
	return code
}

// compareResult prints the first difference. What lies beyond common is in one
// of the disks only.
func (c *call) compareResult(res ops.CompareResult, common int64) int {
	if res.Difference == ops.Same && res.SizeDiffers || res.Difference == ops.DiffContent && res.Offset >= common {
		c.printf("Warning: Image size mismatch!\n")
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

func (c *call) compareError(err error, first *block.Image) int {
	name := c.operands[0]
	var which *ops.CompareError
	if errors.As(err, &which) && which.Image != first {
		name = c.operands[1]
	}
	var io *block.IOError
	if !errors.As(err, &io) {
		c.errorf("%s", render.Error(err))
		return exitCompareRead
	}
	if io.Op == "map" {
		c.errorf("%s", fmt.Sprintf("Sector allocation test failed for %s: %s", name, render.System(io.Err)))
		return exitCompareStatus
	}
	c.errorf("Error while reading offset %d of %s: %s", io.Offset, name, render.System(io.Err))
	return exitCompareRead
}
